"""The error tree: every failure a peer, an operator or an auditor can meet, with the reason as data.

SubnetError
├── ConfigError      the operator must change a file or a flag; exit status 2
├── RequestRejected  the caller's fault; carries an ErrorCode; HTTP 4xx
├── ProofRejected    the miner's fault; carries a RejectReason and the two values that disagreed; costs score
├── LogDamaged       a stored log does not hold what was signed; names the place; exit status 7
├── LogFork          a log signed two histories; carries both notes as evidence; exit status 7
└── Unavailable      Docker, GPU, ledger or a peer is away; HTTP 503 with Retry-After; what a node sees of itself
    ├── DeadlineExceeded  a peer did not finish its answer in time
    ├── ConnectionLost    a peer was there and broke off; whether it did what was asked is not known
    └── AnswerInvalid     a peer answered something that is no answer: another shape, or a receipt that does not hold
        └── StateNotProved  the ledger's answer is not in the state its own block signs; carries note and answer

Return values are for success. A check raises; one place at the edge turns the error into an answer or a verdict.
"""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """Codes of the one HTTP error shape; `docs/errors.md` is generated from this list."""

    BAD_JSON = "BAD_JSON"
    DUPLICATE_KEY = "DUPLICATE_KEY"
    NOT_CANONICAL = "NOT_CANONICAL"
    UNKNOWN_FIELD = "UNKNOWN_FIELD"
    INVALID_FIELD = "INVALID_FIELD"
    BODY_TOO_LARGE = "BODY_TOO_LARGE"
    BODY_TOO_SLOW = "BODY_TOO_SLOW"
    LENGTH_REQUIRED = "LENGTH_REQUIRED"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    NOT_AUTHENTICATED = "NOT_AUTHENTICATED"
    BAD_SIGNATURE = "BAD_SIGNATURE"
    CLOCK_SKEW = "CLOCK_SKEW"
    NONCE_REUSED = "NONCE_REUSED"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"  # noqa: S105  an error code, not a secret
    TOKEN_INVALID = "TOKEN_INVALID"  # noqa: S105  an error code, not a secret
    NOT_PERMITTED = "NOT_PERMITTED"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    EXCEEDS_HOST = "EXCEEDS_HOST"
    NO_CAPACITY = "NO_CAPACITY"
    UNKNOWN_DEVICE = "UNKNOWN_DEVICE"
    NOT_SUPPORTED = "NOT_SUPPORTED"
    IMAGE_NOT_ALLOWED = "IMAGE_NOT_ALLOWED"
    KEY_REFUSED = "KEY_REFUSED"
    CONFLICT = "CONFLICT"
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
    TOO_MANY_REQUESTS = "TOO_MANY_REQUESTS"
    DUTY_CAP = "DUTY_CAP"
    UNAVAILABLE = "UNAVAILABLE"
    DRAINING = "DRAINING"
    INTERNAL = "INTERNAL"
    NONCE_GAP = "NONCE_GAP"
    WRONG_NET = "WRONG_NET"
    RULE_REFUSED = "RULE_REFUSED"
    STALE_CHECKPOINT = "STALE_CHECKPOINT"
    FORKED_CHECKPOINT = "FORKED_CHECKPOINT"


class RejectReason(StrEnum):
    """Why a proof, or a whole miner in one epoch, lost score; `validator explain` prints the fix beside each."""

    MALFORMED = "MALFORMED"
    BAD_SIGNATURE = "BAD_SIGNATURE"
    SEED_MISMATCH = "SEED_MISMATCH"
    WRONG_COUNT = "WRONG_COUNT"
    BAD_MERKLE_PATH = "BAD_MERKLE_PATH"
    TILE_MISMATCH = "TILE_MISMATCH"
    TOO_FAST = "TOO_FAST"
    OPENING_LATE = "OPENING_LATE"
    MISSING = "MISSING"
    CLAIM_NOT_MET = "CLAIM_NOT_MET"
    ALLOCATE_FAILED = "ALLOCATE_FAILED"
    HOST_KEY_MISMATCH = "HOST_KEY_MISMATCH"
    SSH_FAILED = "SSH_FAILED"
    LIMIT_NOT_HELD = "LIMIT_NOT_HELD"
    TERMINATE_FAILED = "TERMINATE_FAILED"
    NOT_MEASURED = "NOT_MEASURED"
    SHARE_INVALID = "SHARE_INVALID"
    BLOCK_MISMATCH = "BLOCK_MISMATCH"
    LOG_FORK = "LOG_FORK"
    LOG_MISMATCH = "LOG_MISMATCH"
    LOG_GAP = "LOG_GAP"
    RENTED = "RENTED"
    DECLINED = "DECLINED"
    OCCUPIED = "OCCUPIED"
    CAPACITY_NOT_SHOWN = "CAPACITY_NOT_SHOWN"


class SubnetError(Exception):
    """Root of every error this project raises on purpose."""


class ConfigError(SubnetError):
    """A setting the operator must change.

    Args:
        message: What is wrong, with the value that was found.
        origin: File, environment variable or flag the value came from.
        key_path: Dotted path of the setting, for example ``docker.default_memory``.
        allowed: What would be accepted, or the fix in one sentence.
    """

    def __init__(self, message: str, *, origin: str = "", key_path: str = "", allowed: str = "") -> None:
        self.message = message
        self.origin = origin
        self.key_path = key_path
        self.allowed = allowed
        super().__init__(str(self))

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.origin, self.key_path) if part)
        text = f"{place}: {self.message}" if place else self.message
        return f"{text}\n  fix: {self.allowed}" if self.allowed else text


class RequestRejected(SubnetError):
    """A request that is the caller's fault; answered with HTTP 4xx and changes nothing.

    Args:
        code: Stable code a client can switch on.
        message: What was wrong, with the value that was found.
        hint: What the caller should do instead.
        field: The offending field of the body, query or header, if one can be named.
        status: HTTP status, 400..499.
        retry_after_seconds: When the same request makes sense again, >= 1; None where that cannot be said.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        hint: str = "",
        field: str | None = None,
        status: int = 400,
        retry_after_seconds: int | None = None,
    ) -> None:
        self.code = code
        self.message = message
        self.hint = hint
        self.field = field
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"{code}: {message}")


class ProofRejected(SubnetError):
    """A proof or a promise that did not hold; becomes a verdict and costs score.

    Args:
        reason: Stable reason code.
        message: One sentence for the miner's operator.
        got: The value the miner sent or that was measured.
        expected: The value it had to be, or the bound.
    """

    def __init__(self, reason: RejectReason, message: str, *, got: object = None, expected: object = None) -> None:
        self.reason = reason
        self.message = message
        self.got = got
        self.expected = expected
        detail = "" if got is None and expected is None else f" (got {got}, expected {expected})"
        super().__init__(f"{reason}: {message}{detail}")


class LogFork(SubnetError):
    """A log showed two histories of which neither goes on from the other; nothing more of it is believed.

    Args:
        message: What does not fit.
        first: The signed note that was seen before.
        second: The signed note that contradicts it.
    """

    def __init__(self, message: str, *, first: bytes, second: bytes) -> None:
        self.message = message
        self.first = first
        self.second = second
        super().__init__(message)


class LogDamaged(SubnetError):
    """The file does not hold what was signed; nothing is served from it.

    Args:
        place: Where: ``leaf 12``, ``node 3/0``, ``checkpoint 4``.
        message: What differs.
    """

    def __init__(self, place: str, message: str) -> None:
        self.place = place
        self.message = message
        super().__init__(f"{place}: {message}")


class Unavailable(SubnetError):
    """Something this node depends on is away; HTTP 503, the caller should come back.

    Args:
        message: What is away and what the operator can do.
        retry_after_seconds: When trying again makes sense, >= 1.
        code: Stable code a client can switch on.
    """

    def __init__(self, message: str, *, retry_after_seconds: int = 5, code: ErrorCode = ErrorCode.UNAVAILABLE) -> None:
        self.code = code
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class DeadlineExceeded(Unavailable):
    """A peer did not finish its answer in time, however steadily it dripped."""


class ConnectionLost(Unavailable):
    """A peer was connected and broke off before its answer was whole; it may have done what was asked."""


class AddressRefused(Unavailable):
    """A peer's address is one that our own settings forbid to call; nothing was sent."""


class PeerRefused(Unavailable):
    """Whoever answered showed no certificate of the node that was expected; no byte of the request was sent."""


class AnswerInvalid(Unavailable):
    """A peer answered, but with something that is no answer to the question.

    Not our caller's fault and not ours; whoever asked decides whether it costs the peer.
    """


class StateNotProved(AnswerInvalid):
    """The ledger showed something for a path that the state root of its own block does not hold; it is not believed.

    Nobody signed the answer, so it is no evidence for others, as two signed notes are (`LogFork`).

    Args:
        message: What does not lead to the root.
        path: What was asked for.
        note: The block, signed.
        answer: The last answer of the ledger, as it came.
    """

    def __init__(self, message: str, *, path: str, note: bytes, answer: bytes) -> None:
        super().__init__(message)
        self.path = path
        self.note = note
        self.answer = answer
