"""Every route of the validator, asked over a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.schema import Config
from neurons.validator.http_server import OPENINGS_HEADER
from neurons.validator.metrics import EpochEnd, StoredWeight
from neurons.validator.node import ValidatorNode
from neurons.validator.readiness import SLACK_SECONDS
from neurons.validator.scoring import RULES_VERSION
from polarise.errors import ConfigError, RejectReason
from polarise.evidence import read_bundle, write_bundle
from polarise.openings import GoneReason, thrown_away
from polarise.signing import Identity, SigningKey
from tests.support.evidence import proof
from tests.support.identities import People, node_identity
from tests.support.proving_miner import MINER, VALIDATOR
from tests.support.scores import OPENING_KEY, begin, bundle_of, keep, register
from tests.support.served_validator import Served, serving
from tests.support.small_ledger import SmallLedger, small_ledger

OTHER_MINER = Identity(SigningKey(b"n" * 32))
DEAD_LEDGER = "http://127.0.0.1:1"
HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>\u202ereversed\x1b[31m'


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLedger]:
    with small_ledger(tmp_path_factory.mktemp("ledger")) as running:
        yield running


@pytest.fixture
def served(tmp_path: Path, ledger: SmallLedger, people: People) -> Iterator[Served]:
    with serving(tmp_path, ledger, people) as validator:
        yield validator


def test_routes_before_the_first_epoch(served: Served) -> None:
    assert served.get("/scores").json == {"status": "success", "scores": [], "next": None}
    assert served.get("/miners").json == {"status": "success", "miners": [], "next": None}
    assert served.get("/epochs").json == {"status": "success", "epochs": [], "next": None}
    assert served.get("/").status == 200
    status = served.get("/status").json
    assert (status["role"], status["epoch"], status["public_url"]) == ("validator", None, served.url)


def test_scores_have_the_weights_of_their_epoch_or_of_the_newest_that_ended(served: Served) -> None:
    key = MINER.public_key
    for epoch in (7, 8):
        keep(served.metrics, served.evidence, bundle_of(begin(served.metrics, epoch), proof()))
    assert (_weight(served, "/scores"), _weight(served, "/scores?epoch=7")) == ((None, None), (None, None))
    served.metrics.set_weights(7, {key: StoredWeight(5, 600_000), OTHER_MINER.public_key: StoredWeight(4, 400_000)})
    assert _weight(served, "/scores") == _weight(served, "/scores?epoch=7") == (5, 600_000)
    assert _weight(served, "/scores?epoch=8") == (None, None)
    served.metrics.set_weights(8, {key: StoredWeight(6, 1_000_000)})
    assert _weight(served, "/scores") == (6, 1_000_000)
    register(served.metrics, 8, "a processor")
    assert b"weight 100.0000 %" in served.get("/").body


def _weight(served: Served, target: str) -> tuple[object, object]:
    scores = served.get(target).json["scores"]
    assert isinstance(scores, list)
    return scores[0]["worth_ppb"], scores[0]["weight_ppm"]


def test_scores_are_the_newest_of_each_miner_or_those_of_an_epoch(served: Served) -> None:
    miners = sorted([MINER, OTHER_MINER], key=lambda miner: miner.public_key)
    for epoch in (7, 8):
        secret = begin(served.metrics, epoch)
        for miner in miners[: 9 - epoch]:
            keep(served.metrics, served.evidence, bundle_of(secret, proof(RejectReason.TILE_MISMATCH), miner=miner))
    found = served.get("/scores").json["scores"]
    assert isinstance(found, list)
    assert [(score["miner_key"], score["epoch"]) for score in found] == [
        (miners[0].public_key, 8),
        (miners[1].public_key, 7),
    ]
    assert (found[0]["score"], found[0]["gate"], found[0]["is_acceptable"]) == ("0.00", 0, False)
    assert found[0]["reasons"] == ["TILE_MISMATCH", "NOT_MEASURED"]
    assert [part["name"] for part in found[0]["parts"]] == ["compute", "memory", "service", "telemetry"]
    of_epoch = served.get("/scores?epoch=7").json["scores"]
    assert isinstance(of_epoch, list)
    assert [score["epoch"] for score in of_epoch] == [7, 7]
    page = served.get("/scores?limit=1").json
    assert page["next"] == miners[0].public_key
    rest = served.get(f"/scores?limit=1&after={page['next']}").json["scores"]
    assert isinstance(rest, list)
    assert rest == found[1:]
    assert served.get(f"/scores?after={miners[1].public_key}").json["scores"] == []


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ("/scores?epoch=-1", "epoch"),
        ("/scores?epoch=9007199254740992", "epoch"),
        ("/scores?limit=0", "limit"),
        ("/scores?limit=201", "limit"),
        ("/scores?after=x'--", "after"),
        ("/miners?after=%00", "after"),
        ("/epochs?before=1e3", "before"),
        ("/epochs?limit=%D9%A3", "limit"),
    ],
)
def test_bad_query_is_refused_by_name(served: Served, target: str, field: str) -> None:
    served.get(target).assert_refused(400, "INVALID_FIELD", field)


def test_evidence_and_opening_key_stay_inside_until_the_epoch_is_finished(served: Served) -> None:
    secret = begin(served.metrics, 7)
    path = keep(served.metrics, served.evidence, bundle_of(secret))
    refusal = served.get(f"/evidence/{path.stem}").assert_refused(409, "CONFLICT", "name")
    assert "epoch 7" in str(refusal["hint"])
    for target in ("/", "/scores", "/epochs", "/miners", "/status"):
        assert OPENING_KEY.hex()[:12].encode() not in served.get(target).body
    (epoch,) = json.loads(served.get("/epochs").body)["epochs"]
    assert (epoch["is_finished"], epoch["opening_key"], epoch["record"]) == (False, None, None)
    assert epoch["state"] == "waits for its beacon"
    served.finish(7)
    answer = served.get(f"/evidence/{path.stem}")
    assert (answer.status, answer.body) == (200, path.read_bytes())
    (epoch,) = json.loads(served.get("/epochs").body)["epochs"]
    assert (epoch["is_finished"], epoch["opening_key"], epoch["record"]) == (True, OPENING_KEY.hex(), "d" * 64)
    assert epoch["state"] == "finished"


def test_epoch_that_was_broken_off_is_shown_as_that(served: Served) -> None:
    begin(served.metrics, 7)
    served.metrics.finish_epoch(7, served.clock.wall_unix_ms(), EpochEnd("d" * 64, "broken_off", RULES_VERSION))
    (epoch,) = json.loads(served.get("/epochs").body)["epochs"]
    assert (epoch["is_finished"], epoch["state"]) == (True, "broken off")
    page = served.get("/").body
    assert b"broken off" in page
    assert b"finished</td>" not in page


def test_evidence_is_cached_and_says_when_its_openings_are_gone(served: Served) -> None:
    secret = begin(served.metrics, 7)
    path = keep(served.metrics, served.evidence, bundle_of(secret))
    served.finish(7)
    whole = served.get(f"/evidence/{path.stem}")
    assert whole.headers[OPENINGS_HEADER.lower()] == "present"
    assert whole.headers["etag"] == f'"{path.stem}"'
    assert "immutable" in whole.headers["cache-control"]
    again = served.get(f"/evidence/{path.stem}", If_None_Match=whole.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    write_bundle(served.evidence, read_bundle(path).without_openings())
    served.metrics.mark_pruned(path.stem)
    pruned = served.get(f"/evidence/{path.stem}", If_None_Match=whole.headers["etag"])
    assert (pruned.status, pruned.headers[OPENINGS_HEADER.lower()]) == (200, "pruned")
    assert pruned.body == path.read_bytes() != whole.body


def test_openings_that_went_early_are_called_pruned(served: Served) -> None:
    """The bundle's bytes hold the validator's word, so that their hash is not the name."""
    bundle = bundle_of(begin(served.metrics, 7))
    path = keep(served.metrics, served.evidence, bundle)
    served.finish(7)
    write_bundle(served.evidence, thrown_away(VALIDATOR, bundle, GoneReason.ROOM, 1))
    served.metrics.mark_pruned(path.stem)
    answer = served.get(f"/evidence/{path.stem}")
    assert answer.headers[OPENINGS_HEADER.lower()] == "pruned"
    assert b"openings_gone" in answer.body
    path.write_bytes(b"{}")
    assert served.get(f"/evidence/{path.stem}").body == b"{}"


def test_bundle_that_never_had_openings_is_not_called_pruned(served: Served) -> None:
    path = keep(served.metrics, served.evidence, bundle_of(begin(served.metrics, 7), proof(RejectReason.MISSING)))
    served.finish(7)
    assert served.get(f"/evidence/{path.stem}").headers[OPENINGS_HEADER.lower()] == "none"


@pytest.mark.parametrize("name", ["0" * 64, "0" * 63, "A" * 64, "..%2Fscores", "%2e%2e", "0" * 64 + ".json"])
def test_unknown_evidence_is_not_found(served: Served, name: str) -> None:
    assert served.get(f"/evidence/{name}").json["code"] == "NOT_FOUND"


def test_file_without_a_score_is_not_served(served: Served) -> None:
    """What a crash between bundle and score left behind holds an opening key nobody has shown yet."""
    path = write_bundle(served.evidence, bundle_of(begin(served.metrics, 7)))
    assert served.get(f"/evidence/{path.stem}").status == 404


def test_lost_file_is_the_validators_own_fault(served: Served) -> None:
    path = keep(served.metrics, served.evidence, bundle_of(begin(served.metrics, 7)))
    served.finish(7)
    path.unlink()
    answer = served.get(f"/evidence/{path.stem}")
    answer.assert_refused(503, "UNAVAILABLE")
    assert answer.headers["retry-after"] == "60"


def test_miners_say_who_is_registered_and_when_it_last_answered(served: Served) -> None:
    secret = begin(served.metrics, 7)
    register(served.metrics, 7, HOSTILE, *[f"card {i}" for i in range(9)])
    keep(served.metrics, served.evidence, bundle_of(secret))
    (miner,) = json.loads(served.get("/miners").body)["miners"]
    assert (miner["miner_key"], miner["is_registered"], miner["seen_at"]) == (MINER.public_key, True, None)
    assert (miner["score"], miner["epoch"], len(miner["devices"])) == ("100.00", 7, 8)
    assert "\u202e" not in miner["devices"][0]
    served.metrics.mark_seen(MINER.public_key, 1_790_000_000_000)
    begin(served.metrics, 8)
    (miner,) = json.loads(served.get("/miners").body)["miners"]
    assert (miner["is_registered"], miner["seen_at"]) == (False, "2026-09-21T14:13:20.000Z")


def test_page_escapes_what_a_miner_says(served: Served) -> None:
    secret = begin(served.metrics, 7)
    register(served.metrics, 7, HOSTILE)
    hostile = proof(RejectReason.TILE_MISMATCH)
    hostile = hostile.model_copy(update={"verdict": hostile.verdict.model_copy(update={"got": HOSTILE})})
    path = keep(served.metrics, served.evidence, bundle_of(secret, hostile))
    served.finish(7)
    answer = served.get("/")
    page = answer.body.decode()
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert page.count("&lt;script&gt;alert(1)") == 2
    assert not {"<script", "<img", "\u202e", "\x1b"} & {
        mark for mark in ("<script", "<img", "\u202e", "\x1b") if mark in page
    }
    assert f'href="/evidence/{path.stem}"' in page
    assert "TILE_MISMATCH" in page
    assert "Compute every tile" in page
    assert "http://" not in page.replace("http://127.0.0.1:1", ""), "the page loads and links nothing from elsewhere"


def test_page_links_no_evidence_of_an_epoch_that_runs(served: Served) -> None:
    register(served.metrics, 7)
    keep(served.metrics, served.evidence, bundle_of(begin(served.metrics, 7)))
    page = served.get("/").body.decode()
    assert "shown when the epoch is finished" in page
    assert 'href="/evidence/' not in page
    served.finish(7)
    assert served.get("/").body.decode() == page, "within two seconds it is the same page"
    served.clock.advance(2)
    assert 'href="/evidence/' in served.get("/").body.decode()


def test_ready_while_epochs_end_in_time(served: Served) -> None:
    assert served.get("/readyz").status == 200
    served.clock.advance(2 * 60 + SLACK_SECONDS)
    assert served.get("/readyz").status == 200
    served.clock.advance(1)
    answer = served.get("/readyz")
    assert answer.status == 503
    assert set(json.loads(answer.body)["causes"]) == {"epochs"}
    begin(served.metrics, 7)
    served.finish(7)
    assert served.get("/readyz").status == 200
    assert served.get("/healthz").status == 200


def test_not_ready_without_its_ledger(tmp_path: Path, ledger: SmallLedger, people: People) -> None:
    with serving(tmp_path, ledger, people, endpoint=DEAD_LEDGER) as validator:
        answer = validator.get("/readyz")
        assert answer.status == 503
        assert DEAD_LEDGER in json.loads(answer.body)["causes"]["ledger"]
        assert validator.get("/scores").status == 200


def test_taken_port_keeps_the_node_from_starting(
    tmp_path: Path, ledger: SmallLedger, people: People, served: Served
) -> None:
    config = Config.model_validate({"network": {"port": served.node.http.port}, "ledger": ledger.settings()})
    node = ValidatorNode(config, tmp_path / "second", node_identity("second", people.owner))
    with pytest.raises(ConfigError, match="cannot listen on"):
        node.run()


@pytest.mark.parametrize(
    ("configured", "expected"), [(None, "http://[::1]:8070"), ("https://v.example", "https://v.example")]
)
def test_public_url_is_the_configured_one_or_the_port(
    tmp_path: Path, people: People, configured: str | None, expected: str
) -> None:
    class Port:
        port = 8070

    config = Config.model_validate({"network": {"host": "::1"}, "validator": {"public_url": configured}})
    node = ValidatorNode(config, tmp_path, node_identity("validator", people.owner))
    node.http = Port()  # type: ignore[assignment]  # all that is asked of it
    assert node.public_url() == expected
