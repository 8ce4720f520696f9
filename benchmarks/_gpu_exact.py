"""Is the product exact where the proof says it is: over a million entries of a whole product beside integers, for `gpu.py`."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from benchmarks.proofs import print_line
from challenges import prng
from challenges.device_keys import upload
from challenges.torch_backend import TorchBackend

# Half of them at either end of the matrix: 1024 x 1024 entries are looked at.
EDGE = 512
INTEGER_ROWS = 8


class NotExact(Exception):
    """An entry of a product differs from the integer it should be."""


def measure_exactness(backend: TorchBackend, n: int, device: torch.device, edge: int = EDGE) -> None:
    """Make a product of size n as a round does, and compare a part of it with integers.

    The reference is numpy in float64, whose sums of integers below 2**53 are exact in any order, turned into int64; some rows
    are made once more in int64 itself.

    Raises:
        NotExact: An entry differs: this card cannot prove at this size.
    """
    keys = prng.round_keys(hashlib.sha256(f"exact {n}".encode()).digest(), n)
    ends = np.r_[0:edge, n - edge : n]
    backend._allocate(n)
    a, b, c = backend._a, backend._b, backend._c
    backend._mixes.fill(upload(keys, device), a, b, slice(0, n))
    backend.multiply(a, b, c)
    index = torch.from_numpy(ends).to(device)
    ours = c.index_select(0, index).index_select(1, index).cpu().numpy()
    rows = np.concatenate([prng.a_rows(keys, start, start + edge) for start in (0, n - edge)])
    columns = np.concatenate([prng.b_columns_transposed(keys, start, start + edge) for start in (0, n - edge)])
    expected = (rows.astype(np.float64) @ columns.T.astype(np.float64)).astype(np.int64)
    integers = rows[:INTEGER_ROWS].astype(np.int64) @ columns.T.astype(np.int64)
    wrong = int(np.count_nonzero(ours.astype(np.int64) != expected))
    if wrong or not np.array_equal(expected[:INTEGER_ROWS], integers):
        raise NotExact(f"K = {n}: {wrong} of {ours.size} entries differ from the exact product")
    largest = int(np.abs(expected).max())
    print_line(
        f"exact at K = {n}: {ours.size} entries equal int64, the largest sum {largest}, {largest / 2**24:.2f} of 2**24"
    )
