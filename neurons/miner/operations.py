"""What each of the miner's routes says of itself for the OpenAPI document; those of its events are in `telemetry_operations`.

A test holds this table against `access_table`, and the real answers against what is said here.
"""

from __future__ import annotations

from collections.abc import Mapping

from neurons.base.openapi import api_document
from neurons.base.operation import (
    COMMON_OPERATIONS,
    TEXT,
    Answer,
    Operation,
    OperationTable,
    Parameter,
    in_path,
    text,
)
from neurons.miner.access_table import MINER_ACCESS
from neurons.miner.telemetry_operations import TELEMETRY_OPERATIONS
from polarise import messages
from polarise.canonical import JsonValue
from polarise.errors import ErrorCode
from polarise.receipt import ID_PATTERN

_ID = in_path("container_id", "Container of a lease, as `POST /allocate` named it.", ID_PATTERN)
_GONE = {404: (ErrorCode.NOT_FOUND,)}
_IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "The same key with the same request returns the first lease, so that a lost answer can be asked for again.",
    {"type": "string", "pattern": r"^[A-Za-z0-9_\-]{1,64}$"},
    where="header",
)
_SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJKt4yo7xZZ1eMbM+J5iFyk0nxNKQsgBSEcgEjCR8xyX"
_PREPARE: Mapping[str, JsonValue] = {
    "challenge_id": "0123456789abcdef0123456789abcdef",
    "device": "CPU-0123456789ab",
    "kind": "pow",
    "sizes": {"shares": 64, "difficulty": 4096, "slot": 0},
}
_START: Mapping[str, JsonValue] = {
    "challenge_id": "0123456789abcdef0123456789abcdef",
    "epoch": 7,
    "beacon": "ab" * 32,
    "nonce": "cd" * 32,
}
_OPEN: Mapping[str, JsonValue] = {
    "challenge_id": "0123456789abcdef0123456789abcdef",
    "positions": [{"round_index": 0, "tile_row": 3, "tile_column": 1}],
}

_LEASES: OperationTable = {
    ("POST", "/token"): Operation(
        "Get a bearer token",
        Answer("A token for plain HTTP clients", messages.TokenAnswer),
        "The body may be left out.",
        body=messages.TokenRequest,
        refusals={422: (ErrorCode.BAD_SIGNATURE, ErrorCode.INVALID_FIELD)},
        example={},
    ),
    ("POST", "/allocate"): Operation(
        "Rent a container",
        Answer("It runs, and its sshd has answered", messages.AllocateAnswer),
        "What is left out takes the miner's defaults.",
        body=messages.AllocateRequest,
        parameters=(_IDEMPOTENCY_KEY,),
        refusals={
            400: (ErrorCode.KEY_REFUSED,),
            409: (ErrorCode.NO_CAPACITY, ErrorCode.CONFLICT),
            422: (
                ErrorCode.EXCEEDS_HOST,
                ErrorCode.IDEMPOTENCY_KEY_REUSED,
                ErrorCode.IMAGE_NOT_ALLOWED,
                ErrorCode.INVALID_FIELD,
                ErrorCode.NOT_SUPPORTED,
                ErrorCode.UNKNOWN_DEVICE,
            ),
            429: (ErrorCode.TOO_MANY_REQUESTS,),
            503: (ErrorCode.DRAINING,),
        },
        example={"memory": "512m", "cpu_count": 0.5, "devices": [], "ttl_seconds": 600, "ssh_public_key": _SSH_KEY},
    ),
    ("GET", "/containers"): Operation(
        "List the containers of the caller; for the owner those of everybody",
        Answer("Those of active leases", messages.ContainerList),
    ),
    ("GET", "/containers/<container_id>"): Operation(
        "Show one container with its usage",
        Answer("The lease and its container", messages.ContainerView),
        parameters=(_ID,),
        refusals=_GONE,
    ),
    ("GET", "/containers/<container_id>/usage"): Operation(
        "Show what a lease has used, also after its end",
        Answer("A statement signed by the miner", messages.UsageAnswer),
        parameters=(_ID,),
        refusals=_GONE,
    ),
    ("POST", "/containers/<container_id>/renew"): Operation(
        "Move the end of a lease",
        Answer("The new end, with its receipt", messages.RenewAnswer),
        body=messages.RenewRequest,
        parameters=(_ID,),
        refusals={**_GONE, 422: (ErrorCode.INVALID_FIELD,)},
        example={"ttl_seconds": 3600},
    ),
    ("POST", "/containers/<container_id>/countersign"): Operation(
        "Sign the newest receipt as the renter it is made out to",
        Answer("The miner can show that its device is rented", messages.SuccessAnswer),
        body=messages.CountersignRequest,
        parameters=(_ID,),
        refusals={**_GONE, 422: (ErrorCode.BAD_SIGNATURE, ErrorCode.INVALID_FIELD)},
    ),
    ("PUT", "/containers/<container_id>/ssh-key"): Operation(
        "Replace the login key",
        Answer("The old key and every password are refused from now on", messages.SuccessAnswer),
        body=messages.SshKeyRequest,
        parameters=(_ID,),
        refusals={**_GONE, 400: (ErrorCode.KEY_REFUSED,)},
        example={"ssh_public_key": _SSH_KEY},
    ),
    ("POST", "/containers/<container_id>/password"): Operation(
        "Replace the password",
        Answer("The new one, shown once", messages.PasswordAnswer),
        parameters=(_ID,),
        refusals={**_GONE, 422: (ErrorCode.NOT_SUPPORTED,)},
    ),
    ("DELETE", "/terminate/<container_id>"): Operation(
        "End a lease",
        Answer("Nobody can log in any more", messages.TerminateAnswer),
        parameters=(_ID,),
        refusals=_GONE,
    ),
    ("GET", "/logs/<container_id>"): Operation(
        "Read the output of a container",
        Answer("The output as a stream", media_type=TEXT),
        parameters=(_ID, text("follow", "`1`, `true` or `yes` goes on at the end; anything else ends there.")),
        refusals={**_GONE, 429: (ErrorCode.TOO_MANY_REQUESTS,)},
    ),
}
_CHALLENGES: OperationTable = {
    ("POST", "/challenge/prepare"): Operation(
        "Get ready for a proof; nothing is timed yet",
        Answer("It is ready, or shows why the device cannot", messages.PrepareAnswer),
        "The example lacks its `order`, which is signed for one miner: without it nothing is prepared.",
        body=messages.PrepareRequest,
        refusals={
            409: (ErrorCode.CONFLICT,),
            422: (ErrorCode.BAD_SIGNATURE, ErrorCode.INVALID_FIELD, ErrorCode.UNKNOWN_DEVICE),
            429: (ErrorCode.DUTY_CAP, ErrorCode.TOO_MANY_REQUESTS),
        },
        example=_PREPARE,
    ),
    ("POST", "/challenge/start"): Operation(
        "Prove; the clock of the validator runs",
        Answer("The signed commitment stops the clock", messages.CommitAnswer),
        body=messages.StartRequest,
        refusals={
            404: (ErrorCode.NOT_FOUND,),
            409: (ErrorCode.CONFLICT,),
            422: (ErrorCode.BAD_SIGNATURE, ErrorCode.INVALID_FIELD),
            429: (ErrorCode.DUTY_CAP, ErrorCode.TOO_MANY_REQUESTS),
        },
        example=_START,
    ),
    ("POST", "/challenge/open"): Operation(
        "Show the drawn tiles or blocks",
        Answer("In the order asked for", messages.OpenAnswer),
        body=messages.OpenRequest,
        refusals={
            404: (ErrorCode.NOT_FOUND,),
            409: (ErrorCode.CONFLICT,),
            422: (ErrorCode.INVALID_FIELD,),
        },
        example=_OPEN,
    ),
    ("POST", "/challenge/verdict"): Operation(
        "Tell the miner its verdict",
        Answer("It is kept for the operator", messages.SuccessAnswer),
        body=messages.VerdictRequest,
        refusals={409: (ErrorCode.CONFLICT,), 422: (ErrorCode.BAD_SIGNATURE, ErrorCode.INVALID_FIELD)},
    ),
}
MINER_OPERATIONS: OperationTable = {
    **COMMON_OPERATIONS,
    **TELEMETRY_OPERATIONS,
    **_LEASES,
    **_CHALLENGES,
    ("GET", "/status"): Operation(
        "Say who this node is and what is free", Answer("Its word; nothing of it is signed", messages.StatusAnswer)
    ),
}


def miner_document() -> dict[str, JsonValue]:
    """Return the OpenAPI document of a miner."""
    return api_document(
        "Polarise miner",
        "Rents out containers, answers the challenges of validators, and shows the events of its node.",
        MINER_ACCESS,
        MINER_OPERATIONS,
    )
