"""Prints docs/configuration.md and docs/errors.md from the schema and the error lists, so that they cannot go stale.

    python -m config.reference > docs/configuration.md
    python -m config.reference errors > docs/errors.md

What a code means is written here, once; a test fails when a code has no meaning or a document is not what this prints.
"""

from __future__ import annotations

import argparse
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from config.loader import OTHER_VARIABLES, variable_of
from config.schema import Config, KeyHex, SizeText
from polarise.errors import ErrorCode, RejectReason
from polarise.fixes import FIXES


class CodeMeaning(NamedTuple):
    """What a code of the HTTP API says.

    Attributes:
        status: The HTTP statuses it comes with.
        meaning: What happened, in one sentence.
        answer: What the caller does about it.
    """

    status: str
    meaning: str
    answer: str


ERROR_CODES: Mapping[ErrorCode, CodeMeaning] = {
    ErrorCode.BAD_JSON: CodeMeaning("400", "The body is no JSON document, or the request no HTTP.", "Send one."),
    ErrorCode.DUPLICATE_KEY: CodeMeaning("400", "A key stands twice in one object.", "Send each key once."),
    ErrorCode.NOT_CANONICAL: CodeMeaning(
        "400", "A line is sound JSON in another spelling than RFC 8785.", "Take the bytes as the log has them."
    ),
    ErrorCode.UNKNOWN_FIELD: CodeMeaning("400", "A field nobody knows.", "The hint names the nearest known one."),
    ErrorCode.INVALID_FIELD: CodeMeaning(
        "400, 422", "A field has the wrong type, or a value out of range.", "`field` and `hint` say which and why."
    ),
    ErrorCode.BODY_TOO_LARGE: CodeMeaning("413", "The body passes network.max_body_bytes.", "Send a smaller one."),
    ErrorCode.BODY_TOO_SLOW: CodeMeaning(
        "408", "The body was not complete after network.request_timeout_seconds.", "Send it faster."
    ),
    ErrorCode.LENGTH_REQUIRED: CodeMeaning("411", "A chunked body has no length.", "Send Content-Length."),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: CodeMeaning(
        "415", "The content type is not JSON.", "Send Content-Type: application/json."
    ),
    ErrorCode.NOT_AUTHENTICATED: CodeMeaning(
        "401", "Neither a signature nor a token, or a token where only a signature counts.", "Sign, or get a token."
    ),
    ErrorCode.BAD_SIGNATURE: CodeMeaning(
        "401, 403, 422",
        "The signature, its certificate or its audience does not hold.",
        "Sign exactly what is sent, once.",
    ),
    ErrorCode.CLOCK_SKEW: CodeMeaning(
        "401, 409",
        "The request was signed more than 30 s away from this node's clock, a transaction more than 60 s ahead of it.",
        "Set the clock; sign anew.",
    ),
    ErrorCode.NONCE_REUSED: CodeMeaning(
        "401, 409",
        "This very request was seen before; on the ledger, another transaction has this nonce.",
        "Sign every request anew.",
    ),
    ErrorCode.TOKEN_EXPIRED: CodeMeaning("401", "The token is older than security.token_expiry.", "Get a new one."),
    ErrorCode.TOKEN_INVALID: CodeMeaning("401", "This node did not give the token.", "Get a new one."),
    ErrorCode.NOT_PERMITTED: CodeMeaning(
        "403", "The key stands on no list, or its role has no right here.", "Ask the node's owner."
    ),
    ErrorCode.NOT_FOUND: CodeMeaning(
        "404",
        "No such route, container, challenge, path or evidence, or it is somebody else's.",
        "The hint says where the names are: GET /containers, GET /scores.",
    ),
    ErrorCode.METHOD_NOT_ALLOWED: CodeMeaning("405", "The route has no such method.", "See the table of routes."),
    ErrorCode.EXCEEDS_HOST: CodeMeaning("422", "More than this host could ever give.", "Ask for less."),
    ErrorCode.NO_CAPACITY: CodeMeaning("409", "More than is free now.", "Ask for less, or later."),
    ErrorCode.UNKNOWN_DEVICE: CodeMeaning("422", "This host has no such device.", "The hint lists its devices."),
    ErrorCode.NOT_SUPPORTED: CodeMeaning(
        "422", "This node cannot do what the field asks for.", "Leave the field out, or ask a newer version."
    ),
    ErrorCode.IMAGE_NOT_ALLOWED: CodeMeaning("422", "The image is not on the list.", "The hint lists the images."),
    ErrorCode.KEY_REFUSED: CodeMeaning(
        "400, 401, 403",
        "Not one plain OpenSSH public key, or a weak one; at 401 and on the ledger, a subkey that a newer one replaced.",
        "Make one: ssh-keygen -t ed25519; sign with the newest subkey.",
    ),
    ErrorCode.CONFLICT: CodeMeaning(
        "409",
        "The lease of the Idempotency-Key is being made (Retry-After says when to ask again) or over; the challenge or the ledger's path is used already; or a step before it is missing: evidence before its epoch's end.",
        "A fresh key; each step once, in order.",
    ),
    ErrorCode.IDEMPOTENCY_KEY_REUSED: CodeMeaning(
        "422",
        "The Idempotency-Key belongs to another request of yours; nothing was made.",
        "Send the first request unchanged, or a fresh key.",
    ),
    ErrorCode.TOO_MANY_REQUESTS: CodeMeaning(
        "429", "Your quota of leases is used up, or the device proves something else now.", "Release one; try later."
    ),
    ErrorCode.DUTY_CAP: CodeMeaning(
        "429", "The device has spent its share of this hour on proofs for you alone.", "Ask in a later epoch."
    ),
    ErrorCode.UNAVAILABLE: CodeMeaning(
        "503", "The node itself lacks something: engine, image, sshd, solver.", "Wait for Retry-After seconds."
    ),
    ErrorCode.DRAINING: CodeMeaning(
        "503",
        "The miner's owner lets it run empty: no new leases, those that run go on.",
        "Rent elsewhere, or ask again after Retry-After seconds.",
    ),
    ErrorCode.INTERNAL: CodeMeaning("500", "A defect; the node logged it.", "Tell the node's owner."),
    ErrorCode.NONCE_GAP: CodeMeaning(
        "409",
        "Transactions of the sender before this one are missing.",
        "Send them in order; the message names the next.",
    ),
    ErrorCode.WRONG_NET: CodeMeaning(
        "409", "The transaction was signed for another ledger.", "Sign for the net id of GET /status."
    ),
    ErrorCode.RULE_REFUSED: CodeMeaning(
        "403", "No rule of the ledger lets this key write on this path.", "Write where the rules allow."
    ),
    ErrorCode.STALE_CHECKPOINT: CodeMeaning(
        "409",
        "The witness knows a checkpoint of another size, or a cosignature is older than the kept one.",
        "Send the proof from the size it names; send the newest cosignature.",
    ),
    ErrorCode.FORKED_CHECKPOINT: CodeMeaning(
        "422", "The checkpoint does not go on from the one seen before.", "Show a proof that it does, or explain."
    ),
}

REJECT_REASONS: Mapping[RejectReason, str] = {
    RejectReason.MALFORMED: "The answer of the miner has another shape than the protocol's.",
    RejectReason.BAD_SIGNATURE: "The commitment is not signed by the miner.",
    RejectReason.SEED_MISMATCH: "The commitment is for another challenge, device or seed: a replay, or a bug.",
    RejectReason.WRONG_COUNT: "There are more or fewer roots or openings than were asked for.",
    RejectReason.BAD_MERKLE_PATH: "An opened tile does not lead to the committed root.",
    RejectReason.TILE_MISMATCH: "A tile computed anew differs from the committed one: the work was not done.",
    RejectReason.SHARE_INVALID: "A share of the proof of work misses its target: it was not found, it was made up.",
    RejectReason.BLOCK_MISMATCH: "A block of memory made anew has another digest than was committed: it was not read, or not there.",
    RejectReason.TOO_FAST: "The rate is above 1.15 of the vendor's peak: nobody believes it.",
    RejectReason.OPENING_LATE: "The openings took longer than two seconds.",
    RejectReason.MISSING: "No proof came: silence, a refusal, or a failure after the question was sent.",
    RejectReason.CLAIM_NOT_MET: "Less than 0.6 of the claim was measured.",
    RejectReason.ALLOCATE_FAILED: "The validator could not rent a container.",
    RejectReason.HOST_KEY_MISMATCH: "The ssh server showed another key than the receipt.",
    RejectReason.SSH_FAILED: "The login into the rented container failed.",
    RejectReason.LIMIT_NOT_HELD: "Seen from inside, a limit is not the one of the receipt.",
    RejectReason.TERMINATE_FAILED: "The container could not be ended, or answered after its end.",
    RejectReason.NOT_MEASURED: "This part was not measured; it is left out and costs nothing.",
    RejectReason.LOG_FORK: "The miner's log signed two histories: what was told was changed afterwards.",
    RejectReason.LOG_MISMATCH: "The event lines that came are not those the log signed.",
    RejectReason.RENTED: "The device is rented, as a receipt with the renter's signature shows, and was not measured.",
    RejectReason.DECLINED: "The device was asked in a round and the miner answered that it is busy.",
    RejectReason.CAPACITY_NOT_SHOWN: "The memory is read so slowly for a card of this name that the card could do without it; half of the part.",
    RejectReason.OCCUPIED: "The device proved for another validator, or had done so for its share of the hour, as signed orders of others show.",
    RejectReason.LOG_GAP: "An event line is missing, repeated or moved.",
}

_TYPE_WORDS: Mapping[object, str] = {
    KeyHex: "key",
    SizeText: "size",
    bool: "true or false",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
}

_VARIABLES: Mapping[str, str] = {
    "POLARISE_CONFIG": "Settings file of every command that reads one; the flag `--config` wins.",
    "POLARISE_PASSPHRASE_FILE": "File with the passphrase of the key file, mode 0600.",
    "POLARISE_RENTER_KEY": "The renter's key file; default: ~/.config/polarise/renter.key.",
    "POLARISE_STATE_DIR": "Where a renter's leases and pinned miners are kept; default: ~/.local/state/polarise.",
}

_CONFIGURATION_HEAD = """\
# Configuration

<!-- Written by `python -m config.reference > docs/configuration.md`; change config/schema.py instead. -->

Settings come from four places; the later wins: defaults, the YAML file, `POLARISE_*` variables, `--set KEY=VALUE`.

```bash
python main.py miner --config my.yaml --set docker.default_memory=2g
POLARISE_DOCKER_DEFAULT_MEMORY=2g python main.py miner --config my.yaml
```

A miner reads `config/miner.yaml`, a validator `config/validator.yaml`, a bare `python main.py` reads `config/config.yaml`,
whose `role` says what it runs. `--config FILE` or `POLARISE_CONFIG` names another file. Relative paths are taken from the
folder that holds `main.py`.

A wrong setting ends the program with exit status 2 before anything has started. The message names the file or variable,
the key, what was found, and what is allowed; all problems are reported at once. An unknown key is refused with the nearest
known one.

A size is a number with `k`, `m`, `g` or `t`, powers of 1024. A key is a public key as `key show` prints it, 64 hex digits.
A list or a table as a variable is written as YAML:
`POLARISE_ACCESS_RENTERS='[0123..., 4567...]'`.
"""

_ERRORS_HEAD = """\
# Errors

<!-- Written by `python -m config.reference errors > docs/errors.md`; change config/reference.py instead. -->

Every refusal of the HTTP API has one shape. `field` is left out when no single field is to blame; switch on `code`, the
texts may change.

```json
{"status": "failure", "code": "EXCEEDS_HOST", "message": "900 GiB is more than this host offers (23 GiB)",
 "hint": "ask for at most 23 GiB", "field": "memory"}
```

A 4xx changed nothing. A 503 carries `Retry-After` in seconds.
"""

_REASONS_HEAD = """\
## Reasons of verdicts

Why a proof, an inspection or a whole epoch lost points. `python main.py validator explain MINER` prints them with the two
numbers that disagreed and the fix, and so does `python main.py miner status` from the signed verdict that the miner was sent.
"""


def configuration() -> str:
    """Return docs/configuration.md."""
    parts = [_CONFIGURATION_HEAD, "## Top level\n", _settings_table(Config, "")]
    for name, info in Config.model_fields.items():
        if (section := _section_of(info)) is not None:
            parts += [f"## {name}\n", f"{(section.__doc__ or '').strip()}\n", _settings_table(section, f"{name}.")]
    parts += [
        "## Other variables\n",
        "Read where they are used; they are no settings and stand in no file.\n",
        _table(("variable", "meaning"), ((f"`{name}`", text) for name, text in _variables())),
    ]
    return "\n".join(parts)


def errors() -> str:
    """Return docs/errors.md."""
    codes = ((f"`{code}`", *ERROR_CODES[code]) for code in ErrorCode)
    reasons = ((f"`{reason}`", REJECT_REASONS[reason], FIXES[reason]) for reason in RejectReason)
    return "\n".join(
        [
            _ERRORS_HEAD,
            "## Codes of the HTTP API\n",
            _table(("code", "HTTP", "meaning", "what to do"), codes),
            _REASONS_HEAD,
            _table(("reason", "meaning", "fix"), reasons),
        ]
    )


def _settings_table(model: type[BaseModel], prefix: str) -> str:
    rows = []
    for name, info in model.model_fields.items():
        if _section_of(info) is not None:
            continue
        path = prefix + name
        kind = _type_text(typing.get_type_hints(model, include_extras=True)[name])
        limits = _bounds_text(info)
        description = (info.description or "").replace("<", "&lt;")
        rows.append((f"`{path}`", kind + limits, _default_text(info), f"`{variable_of(path)}`", description))
    return _table(("key", "type", "default", "variable", "description"), rows)


def _variables() -> Iterable[tuple[str, str]]:
    return ((name, _VARIABLES[name]) for name in sorted(OTHER_VARIABLES) if name in _VARIABLES)


def _section_of(info: FieldInfo) -> type[BaseModel] | None:
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _type_text(hint: object) -> str:
    """Say a type as an operator would.

    Raises:
        KeyError: A type this module has no words for yet.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (KeyHex, SizeText) or not arguments:
        return _enum_text(hint) if isinstance(hint, type) and issubclass(hint, Enum) else _TYPE_WORDS[hint]
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    inner = [_type_text(item) for item in arguments if item not in {types.NoneType, Ellipsis} and not _is_marker(item)]
    words: Mapping[object, str] = {tuple: "list of ", dict: "table of "}
    return words.get(origin, "") + ": ".join(inner)


def _enum_text(kind: type[Enum]) -> str:
    return ", ".join(f"`{member.value}`" for member in kind)


def _is_marker(item: object) -> bool:
    """Whether it is what pydantic hangs on a type inside Annotated, and no type itself."""
    return not isinstance(item, type) and typing.get_origin(item) is None


def _bounds_text(info: FieldInfo) -> str:
    bounds = {name: getattr(item, name) for item in info.metadata for name in ("gt", "ge", "le") if hasattr(item, name)}
    found = {name: value for name, value in bounds.items() if value is not None}
    if {"ge", "le"} <= found.keys():
        return f", {found['ge']} to {found['le']}"
    words = {"gt": "more than", "ge": "at least", "le": "at most"}
    return "".join(f", {words[name]} {value}" for name, value in found.items())


def _default_text(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value in ((), {}):
        return "empty"
    return f"`{value}`"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


DOCUMENTS: Mapping[str, Callable[[], str]] = {"configuration": configuration, "errors": errors}


def main(argv: Sequence[str] | None = None) -> int:
    """Print one document."""
    parser = argparse.ArgumentParser(prog="python -m config.reference", description=__doc__)
    parser.add_argument("document", nargs="?", choices=sorted(DOCUMENTS), default="configuration")
    sys.stdout.write(DOCUMENTS[parser.parse_args(argv).document]())
    return 0


if __name__ == "__main__":
    sys.exit(main())
