"""The validator's end of a login: one command in a stranger's container, run by a process that can be spared.

Rules:
- A hostile ssh server can make a client wait for ever, take memory without bound, or raise anything at all. What it does
  to the process ends with the process: it is killed at the deadline, whatever it waits for.
- It gets one JSON object on stdin and gives one on stdout, bounded and decoded like a peer's.
- A process that ends without an answer met a hostile server: SSH_FAILED. One that did not even start is our own failure:
  NOT_MEASURED.
"""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

from neurons.validator.bandwidth import Transfer
from polarise.decode import WireModel, decode_model
from polarise.errors import ProofRejected, RejectReason, RequestRejected
from polarise.evidence import VerdictRecord
from polarise.receipt import Receipt

# Of the deadline: what starting the process takes, and what is left for it to say why it failed.
PROCESS_SECONDS = 2.0
MAX_MESSAGE_BYTES = 1 << 20
STARTED = b"started\n"
CHECKOUT = Path(__file__).resolve().parents[2]


class LoginRequest(WireModel):
    """What the process reads on stdin; see `LoginProcess.run`."""

    receipt: Receipt
    private_pem: str
    allow_private: bool
    command: str
    stdin: str
    max_bytes: int
    deadline_seconds: float
    transfer_bytes: int = 0
    transfer_seconds: float = 0.0


class LoginAnswer(WireModel):
    """What it writes on stdout, after a line that says that it started.

    Attributes:
        login_ms: Connect to authenticated; None when it did not come so far.
        output: The command's stdout in base64.
        verdict: Why there is none.
        transfer: What went through each way; None when it was not asked for.
    """

    login_ms: int | None
    output: str
    verdict: VerdictRecord
    transfer: Transfer | None = None


class LoginProcess:
    """One command in one container, from a process of its own.

    Args:
        receipt: Where to connect, as whom, and which host key to expect.
        private_pem: Our throw-away key in OpenSSH's form.
        allow_private: Whether loopback and private addresses may be connected to.

    Attributes:
        login_ms: Connect to authenticated; None as long as that did not happen.
        transfer: What went through each way; None as long as nothing was measured.
    """

    def __init__(self, receipt: Receipt, private_pem: str, *, allow_private: bool) -> None:
        self._receipt = receipt
        self._private_pem = private_pem
        self._allow_private = allow_private
        self.login_ms: int | None = None
        self.transfer: Transfer | None = None

    def run(
        self,
        command: str,
        stdin: str,
        *,
        max_bytes: int,
        deadline_seconds: float,
        transfer_bytes: int = 0,
        transfer_seconds: float = 0.0,
    ) -> bytes:
        """Log in, run one command with this text on its stdin, and return its stdout.

        Args:
            command: For the container's shell; made of our own words and checked numbers only.
            stdin: What the command reads.
            max_bytes: More output than this is refused.
            deadline_seconds: For everything together, from here.
            transfer_bytes: How much goes through each way before, to see how fast; 0 leaves that out.
            transfer_seconds: How long that may take, of the deadline.

        Raises:
            ProofRejected: HOST_KEY_MISMATCH; SSH_FAILED: no login, no end in time or with status 0, or too much output;
                NOT_MEASURED: our own process did not start.
        """
        request = LoginRequest(
            receipt=self._receipt,
            private_pem=self._private_pem,
            allow_private=self._allow_private,
            command=command,
            stdin=stdin,
            max_bytes=max_bytes,
            deadline_seconds=max(deadline_seconds - PROCESS_SECONDS, deadline_seconds / 2),
            transfer_bytes=transfer_bytes,
            transfer_seconds=transfer_seconds,
        )
        answer = _ask(request, deadline_seconds)
        self.login_ms, self.transfer = answer.login_ms, answer.transfer
        if answer.verdict.reason is not None:
            verdict = answer.verdict
            raise ProofRejected(answer.verdict.reason, verdict.message, got=verdict.got, expected=verdict.expected)
        return base64.b64decode(answer.output, validate=True)


def _ask(request: LoginRequest, deadline_seconds: float) -> LoginAnswer:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "neurons.validator.login"],
            input=request.model_dump_json().encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=deadline_seconds,
            cwd=CHECKOUT,
            start_new_session=True,
            check=False,
        )
        printed, ending = done.stdout, f"the login process ended with status {done.returncode} and without an answer"
    except subprocess.TimeoutExpired as err:
        printed, ending = err.output or b"", f"login and probe did not end within {deadline_seconds:g} s"
    except OSError as err:
        printed, ending = b"", f"this validator cannot start its login process: {err.strerror}"
    return decode_answer(printed, ending)


def decode_answer(printed: bytes, ending: str) -> LoginAnswer:
    """Read what the process has printed; the output in it is base64.

    Args:
        printed: Everything it wrote on stdout; as good as a stranger's.
        ending: How it ended, for the verdict where that is no answer.

    Raises:
        ProofRejected: NOT_MEASURED, it did not start; SSH_FAILED, it gave no answer.
    """
    started, line, rest = printed.partition(STARTED)
    if started or not line:
        raise ProofRejected(RejectReason.NOT_MEASURED, f"{ending}, before it connected")
    try:
        answer = decode_model(LoginAnswer, rest, max_bytes=MAX_MESSAGE_BYTES)
        base64.b64decode(answer.output, validate=True)
    except (RequestRejected, ValueError) as err:
        raise ProofRejected(RejectReason.SSH_FAILED, ending) from err
    return answer
