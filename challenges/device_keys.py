"""The keys of one round where a device's arithmetic reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from challenges import prng


@dataclass(frozen=True, slots=True)
class DeviceKeys:
    """Keys of one round as int32 on a device, shaped [n, 1] for rows and [1, n] for columns.

    The names are those of `prng.RoundKeys`, in which the salt of rows belongs to A and that of columns to B.
    """

    a_row: torch.Tensor
    a_salt: torch.Tensor
    a_inner: torch.Tensor
    b_inner: torch.Tensor
    b_column: torch.Tensor
    b_salt: torch.Tensor
    digest_row: torch.Tensor
    digest_column: torch.Tensor


def upload(keys: prng.RoundKeys, device: torch.device) -> DeviceKeys:
    """Copy all keys of a round, without waiting for what the device does at the moment."""
    return DeviceKeys(
        a_row=_words(keys.a_row, device)[:, None],
        a_salt=_words(keys.a_row_salt, device)[:, None],
        a_inner=_words(keys.a_inner, device)[None, :],
        b_inner=_words(keys.b_inner, device)[:, None],
        b_column=_words(keys.b_column, device)[None, :],
        b_salt=_words(keys.b_column_salt, device)[None, :],
        digest_row=_words(keys.digest_row, device)[:, None],
        digest_column=_words(keys.digest_column, device)[None, :],
    )


def _words(keys: prng.UInt32Array, device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(keys.view(np.int32).copy())
    # From pageable memory the copy would make the host wait for the round before.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
