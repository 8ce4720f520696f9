"""What validators and auditors write down of the usual rate of a GPU model: a sample, and the average it moves."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from polarise.decode import WireModel
from polarise.signing import KEY_PATTERN

OWNERS_MIN = 5
OF_EXPECTED_PPM_MAX = 2_000_000

ModelName = Annotated[str, Field(min_length=1, max_length=200)]
RateKind = Literal["pow", "matmul", "memory"]
OwnerKey = Annotated[str, Field(pattern=KEY_PATTERN)]
# No accepted rate is above 1.15 of its peak, and no peak above 1.25 of the expectation.
OfExpectedPpm = Annotated[int, Field(ge=0, le=OF_EXPECTED_PPM_MAX)]


class RateSample(WireModel):
    """One accepted rate of one device.

    Attributes:
        model: Name of the GPU as the table of models has it.
        kind: Which proof.
        owner_key: Who owns the miner: all nodes of one owner are one voice.
        of_expected_ppm: Measured rate over the table's, in millionths.
    """

    model: ModelName
    kind: RateKind
    owner_key: OwnerKey
    of_expected_ppm: OfExpectedPpm


class RateAverage(WireModel):
    """The usual rate of one model and kind; `challenges.averages` moves it.

    Attributes:
        model: Name of the GPU.
        kind: Which proof.
        samples_count: Samples that counted so far.
        mean_ppm: Moving average of measured over expected.
        deviation_ppm: Moving average of how far a sample lay from it.
        recent_owners: Whose samples counted last, oldest first; none of them counts again yet.
    """

    model: ModelName
    kind: RateKind
    samples_count: int = Field(default=0, ge=0, lt=2**53)
    mean_ppm: OfExpectedPpm = 0
    deviation_ppm: OfExpectedPpm = 0
    recent_owners: tuple[OwnerKey, ...] = Field(default=(), max_length=OWNERS_MIN - 1)
