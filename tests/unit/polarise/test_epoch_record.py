"""The scores of an epoch on pages: every line on one of them, each page small enough for the ledger."""

from __future__ import annotations

import pytest

from polarise.epoch_record import (
    LINES_MAX,
    PAGE_BYTES_MAX,
    PAGES_MAX,
    EpochScores,
    ScorePage,
    WeighedLine,
    page_path,
    pages_of,
    scores_path,
)
from polarise.errors import RejectReason
from polarise.transaction import MAX_TRANSACTION_BYTES, SetValue, sign_transaction
from tests.support.identities import identity

VALIDATOR = identity("validator")


def line(number: int, *, reasons: tuple[RejectReason, ...] = ()) -> WeighedLine:
    """The line of the miner of this number."""
    return WeighedLine(
        miner_key=f"{number:064x}",
        score_ppm=1_000_000,
        raw_ppm=1_000_000,
        reasons=reasons,
        evidence="e" * 64,
        telemetry="f" * 64,
        worth_ppb=2**53 - 1,
        weight_ppm=1_000_000,
    )


def lines(count: int, *, reasons: tuple[RejectReason, ...] = ()) -> list[WeighedLine]:
    """So many lines in the order of their miners."""
    return [line(number, reasons=reasons) for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 170, 171, 1000])
def test_every_line_is_on_a_page_in_its_order(count: int) -> None:
    pages = pages_of(2, lines(count))
    assert [page.page for page in pages] == list(range(len(pages)))
    assert [found for page in pages for found in page.lines] == lines(count)
    assert all(page.lines for page in pages) or count == 0
    assert EpochScores.of_pages(pages) == EpochScores(2, tuple(lines(count)))


@pytest.mark.parametrize("reasons", [(), tuple(RejectReason)])
def test_page_fits_into_a_transaction_whatever_its_lines_say(reasons: tuple[RejectReason, ...]) -> None:
    pages = pages_of(2, lines(1000, reasons=reasons))
    sizes = []
    for page in pages:
        op = SetValue(path=page_path(VALIDATOR.public_key, 2**31, page.page), value=page.to_wire())
        sizes.append(
            len(
                sign_transaction(
                    VALIDATOR, op, net="a" * 32 + "." + "0" * 16, nonce=2**53 - 1, time_unix_ms=2**53 - 1
                ).raw
            )
        )
    assert max(sizes) <= MAX_TRANSACTION_BYTES
    # And none is left half empty: an epoch of 1,000 miners is a few writes.
    assert min(sizes[:-1]) > PAGE_BYTES_MAX - 1000


def test_page_holds_no_more_lines_than_a_reader_takes() -> None:
    short = [found.model_copy(update={"evidence": "", "telemetry": None}) for found in lines(LINES_MAX + 1)]
    assert [len(page.lines) for page in _unchecked(short)] == [LINES_MAX, 1]


def _unchecked(found: list[WeighedLine]) -> tuple[ScorePage, ...]:
    return pages_of(2, [WeighedLine.model_construct(**dict(item)) for item in found])


def test_more_pages_than_an_epoch_has_are_refused() -> None:
    full = len(pages_of(2, lines(400))[0].lines)
    assert len(pages_of(2, lines(full * PAGES_MAX))) == PAGES_MAX
    with pytest.raises(ValueError, match="101 pages"):
        pages_of(2, lines(full * PAGES_MAX + 1))


@pytest.mark.parametrize(
    "numbers",
    [(), (1,), (0, 2), (1, 0), (0, 0)],
)
def test_pages_that_are_not_all_there_are_no_scores(numbers: tuple[int, ...]) -> None:
    pages = [ScorePage(rules_version=2, page=number, lines=()) for number in numbers]
    with pytest.raises(ValueError, match="expected 0 and those that follow"):
        EpochScores.of_pages(pages)


def test_pages_are_by_one_version_of_the_rules() -> None:
    pages = [ScorePage(rules_version=version, page=page, lines=()) for page, version in enumerate((2, 3))]
    with pytest.raises(ValueError, match="different rules"):
        EpochScores.of_pages(pages)


def test_root_does_not_depend_on_where_a_page_ends() -> None:
    apart = [ScorePage(rules_version=2, page=page, lines=(line(page),)) for page in range(3)]
    assert EpochScores.of_pages(apart).root() == EpochScores.of_pages(pages_of(2, lines(3))).root()
    assert EpochScores.of_pages(apart[:2]).root() != EpochScores.of_pages(apart).root()


def test_pages_stand_below_their_epoch_and_sort_as_numbers_do() -> None:
    paths = [page_path("a" * 64, 7, page) for page in range(PAGES_MAX)]
    assert paths == sorted(paths)
    assert paths[0] == f"{scores_path('a' * 64, 7)}/00"
