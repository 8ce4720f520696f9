"""What a device claims is measured with proofs long enough to show its rate."""

from __future__ import annotations

import pytest

from challenges.matmul_messages import MatmulParams
from challenges.pow_messages import PowParams
from challenges.proofs import ProofParams
from challenges.timing import fit_params, fit_pow_params
from neurons.miner.hardware import MATMUL_PROBE, POW_PROBE, PROBES_MAX, settle


class Device:
    """A device with a rate, and a time that every proof costs beside its work."""

    def __init__(self, rate: int, overhead_seconds: float) -> None:
        self.proofs: list[ProofParams] = []
        self._rate = rate
        self._overhead_seconds = overhead_seconds

    def rate_of(self, params: ProofParams) -> int:
        self.proofs.append(params)
        return int(params.operations / (params.operations / self._rate + self._overhead_seconds))


@pytest.mark.parametrize("rate", [10**9, 60 * 10**9, 10**12, 790 * 10**12, 2 * 10**15])
def test_a_settled_matmul_proof_shows_the_rate_of_any_device(rate: int) -> None:
    device = Device(rate, overhead_seconds=0.01)
    params, shown = settle(MATMUL_PROBE, lambda seen: fit_params(seen, 1), device.rate_of)
    assert 0.95 * rate < shown <= rate
    assert params == device.proofs[-1]
    assert len(device.proofs) <= PROBES_MAX


@pytest.mark.parametrize("rate", [2 * 10**6, 11 * 10**6, 10**9, 17 * 10**9])
def test_a_settled_proof_of_work_shows_the_rate_of_any_device(rate: int) -> None:
    device = Device(rate, overhead_seconds=0.01)
    _, shown = settle(POW_PROBE, lambda seen: fit_pow_params(max(seen // 2, 1), 1), device.rate_of)
    assert 0.95 * rate < shown <= rate


def test_a_device_that_never_settles_is_asked_a_bounded_number_of_times() -> None:
    asked: list[ProofParams] = []

    def rate_of(params: ProofParams) -> int:
        asked.append(params)
        return 10 * params.operations

    params, _ = settle(PowParams(16, 1), lambda rate: PowParams(16, rate // 16), rate_of)
    assert len(asked) == PROBES_MAX
    assert params == asked[-1]


def test_a_slow_processor_is_done_with_the_probe() -> None:
    device = Device(10**9, overhead_seconds=0)
    params, _ = settle(MatmulParams(1024, rounds=8), lambda seen: fit_params(seen, 1), device.rate_of)
    assert device.proofs == [params]
