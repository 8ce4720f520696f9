"""The compiled scan: the same shares as numpy's, and no code that is not ours or hashes wrongly."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from challenges import pow_native
from challenges.pow import PowParams, check_shares, share_prefix, share_value
from challenges.pow_native import NativePowBackend, NativeScan, NativeUnavailable
from challenges.pow_solver import NumpyPowBackend, ProcessPowBackend, open_pow_backend, solve_pow
from neurons.miner.pow_library import COMPILER, FLAGS, ensure_library

SEED = bytes(range(32))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_library(tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="module")
def scan(library: Path) -> NativeScan:
    return NativeScan(library)


def compiled(source: str, folder: Path) -> Path:
    folder.chmod(0o700)
    library = folder / "scan.so"
    subprocess.run([COMPILER, *FLAGS, "-o", str(library), "-"], input=source.encode(), check=True, timeout=60)
    library.chmod(0o700)
    return library


@pytest.mark.compiler
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    "params",
    [PowParams(500, 100), PowParams(16, 1), PowParams(4096, 3), PowParams(300, 2000, slot=65535)],
    ids=["usual", "every nonce", "every third", "last slot"],
)
def test_shares_are_those_of_numpy(scan: NativeScan, params: PowParams, workers: int) -> None:
    backend = NativePowBackend(scan, workers)
    backend.prepare(params)
    work = solve_pow(params, SEED, backend)
    check_shares(params, SEED, work.commitment)
    assert work.nonces == solve_pow(params, SEED, NumpyPowBackend(lanes=4096, calls=1)).nonces


@pytest.mark.compiler
def test_one_backend_answers_one_seed_after_another(scan: NativeScan) -> None:
    """Stretches of the proof before are still queued; nothing of them may show."""
    backend, params = NativePowBackend(scan, 2), PowParams(200, 500)
    backend.prepare(params)
    for seed in (SEED, bytes(32), SEED):
        check_shares(params, seed, solve_pow(params, seed, backend).commitment)


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("params", "expected"),
    [(PowParams(16, 1), 1 << 12), (PowParams(16, 8192), 1 << 14), (PowParams(2000, 10**6), 1 << 21)],
)
def test_stretches_leave_every_thread_several(scan: NativeScan, params: PowParams, expected: int) -> None:
    backend = NativePowBackend(scan, 2)
    backend.prepare(params)
    assert backend.scan_nonces == expected


@pytest.mark.compiler
def test_more_candidates_than_there_is_room_for_are_all_returned(scan: NativeScan) -> None:
    start, count = (9 << 32) + 4096, 3 * pow_native.ROOM
    assert scan.candidates(bytes(44), 2**32 - 1, start, count) == list(range(start, start + count))


@pytest.mark.compiler
def test_candidates_are_hashed_again_up_to_the_last_bit_of_the_target(scan: NativeScan) -> None:
    """The library compares 32 bits; a nonce whose value is the target is a share, and at one less it is not."""
    prefix = share_prefix(PowParams(16, 100), SEED)
    best = min(range(4096), key=lambda nonce: share_value(prefix, nonce))
    value = share_value(prefix, best)
    backend = NativePowBackend(scan, 1)
    assert list(backend.start_scan(prefix, value, 0)()) == [best]
    assert list(backend.start_scan(prefix, value - 1, 0)()) == []


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("prefix", "start", "count"), [(bytes(43), 0, 16), (bytes(44), 0, 17), (bytes(44), 2**32 - 16, 32)]
)
def test_stretch_that_the_library_cannot_scan_is_refused(
    scan: NativeScan, prefix: bytes, start: int, count: int
) -> None:
    with pytest.raises(ValueError, match="nonces from"):
        scan.candidates(prefix, 0, start, count)


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("0x90BEFFFA", "0x90BEFFFB"),
        ("written + LANES <= room; at += LANES", "written + LANES <= room; at += 2 * LANES"),
        ("if (hits[i]) found", "if (i && hits[i]) found"),
        ("<= most", "< most"),
    ],
    ids=["one constant", "half of the nonces", "lane 0", "the bound itself"],
)
def test_library_that_hashes_wrongly_is_not_used(tmp_path: Path, right: str, wrong: str) -> None:
    source = pow_native.SOURCE.read_text(encoding="utf-8")
    assert source.count(right) == 1
    library = compiled(source.replace(right, wrong), tmp_path)
    with pytest.raises(NativeUnavailable, match="differs from hashlib"):
        NativeScan(library)


@pytest.mark.compiler
def test_open_pow_backend_takes_the_library_it_is_given(library: Path) -> None:
    assert isinstance(open_pow_backend("cpu", library), NativePowBackend)


@pytest.mark.parametrize(
    "what", ["missing", "folder writable for all", "writable for the group", "link", "folder link"]
)
def test_code_that_others_could_have_put_there_is_not_loaded(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "native"
    folder.mkdir(mode=0o700)
    library = folder / "pow.so"
    if what != "missing":
        library.write_bytes(b"never loaded")
        library.chmod(0o700)
    if what == "folder writable for all":
        folder.chmod(0o777)
    elif what == "writable for the group":
        library.chmod(0o720)
    elif what == "link":
        library.rename(folder / "elsewhere.so")
        library.symlink_to(folder / "elsewhere.so")
    elif what == "folder link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NativeUnavailable, match=r"No such file|not this user's alone"):
        NativeScan(library)


def test_without_a_usable_library_numpy_proves(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    library = tmp_path / "pow.so"
    library.write_bytes(b"no library at all")
    library.chmod(0o700)
    with pytest.raises(NativeUnavailable, match="cannot be loaded"):
        NativeScan(library)
    backend = open_pow_backend("cpu", library)
    assert isinstance(backend, ProcessPowBackend | NumpyPowBackend)
    if isinstance(backend, ProcessPowBackend):
        backend.close()
