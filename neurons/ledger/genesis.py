"""From an operator's wishes to a genesis."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from polarise.decode import rejection_of
from polarise.errors import ConfigError
from polarise.genesis import Genesis, Member
from polarise.signing import Identity, Purpose


def new_genesis(
    identity: Identity,
    name: str,
    validators: Sequence[Member],
    *,
    block_seconds: int,
    final_confirmations: int,
    created_unix_ms: int,
) -> Genesis:
    """Return the beginning of a ledger that this node runs.

    Raises:
        ConfigError: A name or number outside its range, or a validator named twice.
    """
    try:
        return Genesis(
            name=name,
            ledger_key=identity.public_key,
            log_certificate=identity.subkey(Purpose.LOG).certificate,
            validators=tuple(sorted(validators, key=lambda member: member.key)),
            block_seconds=block_seconds,
            final_confirmations=final_confirmations,
            created_unix_ms=created_unix_ms,
        )
    except ValidationError as err:
        rejected = rejection_of(Genesis, err)
        raise ConfigError(
            rejected.message, origin="ledger init", key_path=rejected.field or "", allowed="see `ledger init --help`"
        ) from err
