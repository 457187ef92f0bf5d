"""The service with an index: nearly all of the exact best, live changes visible at once, the index kept beside the run."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from service import Shop, api_of, vector_run
from starlette.testclient import TestClient

from linguarec.ranking.approximate import ApproximateRanker
from linguarec.recommender import Recommender
from linguarec.serving.answers import Served
from linguarec.serving.live import Live
from linguarec.serving.schemas import RecommendRequest

ITEMS, WIDTH = 20_000, 64


def clustered(count: int) -> Any:
    """[count, WIDTH] float32: most of the neighbours of a vector are of its own cluster."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((300, WIDTH), dtype=np.float32)
    return centres[rng.integers(0, 300, count)] + 0.7 * rng.standard_normal((count, WIDTH), dtype=np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of many items with its index beside it; no test changes either."""
    folder = tmp_path_factory.mktemp("many") / "run"
    vector_run(folder, clustered(ITEMS))
    Served.open(folder, approximate=True)
    return folder


def best_of(live: Live, **asked: Any) -> list[list[dict[str, Any]]]:
    [answer] = live.recommend([RecommendRequest(**asked)], 100)
    assert not isinstance(answer, Exception), answer
    found: list[list[dict[str, Any]]] = orjson.loads(answer.content)["recommendations"]
    return found


def test_it_finds_nearly_all_of_the_exact_best_with_their_exact_scores(run: Path, tmp_path: Path):
    exact = Live.open(run, str(tmp_path / "exact.sqlite"))
    approximate = Live.open(run, str(tmp_path / "approximate.sqlite"), approximate=True)
    assert isinstance(approximate.served.recommender.snapshot.ranker, ApproximateRanker)
    assert not isinstance(exact.served.recommender.snapshot.ranker, ApproximateRanker)
    rng = np.random.default_rng(1)
    histories = [[f"v{row}" for row in rng.integers(0, ITEMS, rng.integers(1, 6))] for _ in range(300)]
    hits = 0
    left, right = (best_of(live, histories=histories, k=10) for live in (exact, approximate))
    for history, mine, its in zip(histories, left, right, strict=True):
        scores = {one["raw_id"]: one["score"] for one in mine}
        hits += len(scores.keys() & {one["raw_id"] for one in its})
        assert len(its) == 10 and not {one["raw_id"] for one in its} & set(history)
        for one in its:
            if one["raw_id"] in scores:
                assert one["score"] == pytest.approx(scores[one["raw_id"]], abs=1e-6)
    assert hits / (10 * len(histories)) >= 0.99
    for options in ({"within": histories[0] * 3 + ["v1", "v2"]}, {"exclude_seen": False}, {"explain": True}):
        first, second = (best_of(live, histories=histories[:3], k=2, **options) for live in (exact, approximate))
        assert [[one["raw_id"] for one in each] for each in first] == [
            [one["raw_id"] for one in each] for each in second
        ]
    exact.close()
    approximate.close()


def test_changes_are_visible_at_once_and_after_a_restart(run: Path, tmp_path: Path):
    state = str(tmp_path / "state.sqlite")
    body = {"histories": [["v7"]], "k": 5}
    like = {"vector": clustered(ITEMS)[7].tolist()}

    def first(api: TestClient) -> list[str]:
        return [one["raw_id"] for one in api.post("/v1/recommend", json=body).json()["recommendations"][0]]

    live = Live.open(run, state, approximate=True)
    with api_of(Shop(run, run, run, run, []), live) as api:
        assert api.get("/v1/model").json()["approximate"] is True
        before = first(api)
        added = {"items": [{"raw_id": "new", "title": "New", **like}]}
        assert api.put("/v1/items", json=added).json()["upserted"] == 1
        assert first(api) == ["new", *before[:4]]
        api.delete(f"/v1/items/{before[0]}")
        assert first(api) == ["new", *before[1:5]]
        api.put("/v1/items", json={"items": [{"raw_id": before[1], "title": "Replaced", **like}]})
        replaced = first(api)
        assert set(replaced[:2]) == {"new", before[1]} and replaced[2:] == before[2:5]
        api.delete("/v1/items/new")
        assert first(api)[:4] == [before[1], *before[2:5]]
        expected = first(api)
        assert [
            one["raw_id"]
            for one in api.post("/v1/similar", json={"items": ["v7"], "k": 1}).json()["recommendations"][0]
        ] == [before[1]]
        assert api.post("/v1/reload", json={}).status_code == 200
        assert first(api) == expected and live.served.approximate
    again = Live.open(run, state, approximate=True)
    assert [one["raw_id"] for one in best_of(again, **body)[0]] == expected
    again.close()


def test_the_index_is_kept_beside_the_run_and_built_again_for_other_items(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    files = sorted(file.relative_to(copy) for file in copy.rglob("*"))
    index = tmp_path / "copy.index.npz"
    shutil.copy(run.with_name("run.index.npz"), index)
    built: list[int] = []
    build = ApproximateRanker.build

    def count(dense: Any) -> ApproximateRanker:
        built.append(len(dense))
        return build(dense)

    monkeypatch.setattr(ApproximateRanker, "build", count)
    Served.open(copy, approximate=True)
    assert built == []
    shutil.rmtree(copy)
    vector_run(copy, clustered(2_000)[::-1].copy())
    Served.open(copy, approximate=True)  # the index is of other items
    index.write_bytes(index.read_bytes()[:1_000])
    Served.open(copy, approximate=True)  # it is cut short
    Served.open(copy, approximate=True)
    assert built == [2_000, 2_000]
    assert sorted(file.relative_to(copy) for file in copy.rglob("*")) == files


def test_an_index_that_cannot_be_written_is_used_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    vector_run(tmp_path / "run", clustered(2_000))
    (tmp_path / "run.index.npz").mkdir()  # stands in the way
    served = Served.open(tmp_path / "run", approximate=True)
    assert isinstance(served.recommender.snapshot.ranker, ApproximateRanker)
    assert "each start builds it again" in caplog.text


def test_the_library_saves_and_evaluates_exactly_what_was_served_approximately(run: Path, tmp_path: Path):
    served = Served.open(run, approximate=True)
    served.recommender.save(tmp_path / "again")
    again = Recommender.load(tmp_path / "again")
    assert np.array_equal(again.item_vectors(), served.recommender.item_vectors())
    assert len(again.snapshot.ranker) == ITEMS
