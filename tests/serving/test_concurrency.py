"""Requests that come together, changes that come meanwhile, several processes on one state."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from service import Shop, wait_until
from starlette.testclient import TestClient

from linguarec.recommender import Recommender
from linguarec.serving.batching import Batcher
from linguarec.serving.changes import Removal, Upsert
from linguarec.serving.live import Live
from linguarec.serving.problems import Problem
from linguarec.serving.schemas import Item, RecommendRequest

# -- batches -----------------------------------------------------------------------------------------------------------


def test_what_waits_is_answered_together_and_each_gets_its_own_answer():
    batches: list[list[int]] = []
    go = threading.Event()

    def answer(asked: Any) -> list[int | Exception]:
        batches.append(list(asked))
        go.wait(10)
        return [ValueError(str(one)) if one == 13 else one * one for one in asked]

    async def run() -> list[Any]:
        batcher: Batcher[int, int] = Batcher(answer, window=0.0, largest=8)
        first = asyncio.create_task(batcher.ask(1))
        while not batches:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(batcher.ask(number)) for number in range(2, 21)]
        await asyncio.sleep(0)
        go.set()
        found = await asyncio.gather(first, *others, return_exceptions=True)
        await batcher.close()
        return list(found)

    found = asyncio.run(run())
    assert batches == [[1], list(range(2, 10)), list(range(10, 18)), list(range(18, 21))]
    assert isinstance(found[12], ValueError)
    assert [one for one in found if isinstance(one, int)] == [number**2 for number in range(1, 21) if number != 13]


def test_requests_within_the_window_are_one_batch_and_who_asks_alone_does_not_wait():
    batches: list[int] = []

    def answer(asked: Any) -> list[int]:
        batches.append(len(asked))
        return list(asked)

    async def run() -> None:
        batcher: Batcher[int, int] = Batcher(answer, window=0.2)

        async def ask_one_after_the_other() -> None:
            first = asyncio.create_task(batcher.ask(1))
            await asyncio.sleep(0.01)
            await asyncio.gather(first, batcher.ask(2), batcher.ask(3))

        await batcher.ask(1)
        await ask_one_after_the_other()
        assert batches[:2] == [1, 1] and sum(batches) == 4
        await asyncio.gather(*map(batcher.ask, range(4)))  # now several ask
        batches.clear()
        await ask_one_after_the_other()
        assert batches == [3]
        started = asyncio.get_running_loop().time()
        await batcher.ask(1)
        await batcher.ask(1)
        assert asyncio.get_running_loop().time() - started < 0.39  # the second one did not wait
        await batcher.close()

    asyncio.run(run())


def test_a_large_request_is_a_batch_of_its_own_and_too_many_are_refused():
    batches: list[list[int]] = []
    go = threading.Event()

    def answer(asked: Any) -> list[int]:
        batches.append(list(asked))
        go.wait(10)
        return list(asked)

    async def run() -> None:
        batcher: Batcher[int, int] = Batcher(answer, size=lambda one: one, largest=10, window=0.0, most_waiting=4)
        tasks = [asyncio.create_task(batcher.ask(size)) for size in (1, 500, 4, 6)]
        await asyncio.sleep(0)
        with pytest.raises(Problem, match="4 requests wait already") as caught:
            await batcher.ask(1)
        assert caught.value.status == 503 and caught.value.headers == {"Retry-After": "1"}
        go.set()
        assert await asyncio.gather(*tasks) == [1, 500, 4, 6]
        await batcher.close()

    asyncio.run(run())
    assert batches == [[1], [500], [4, 6]]


def test_a_batch_that_fails_fails_for_all_of_it_and_the_next_one_is_answered():
    def answer(asked: Any) -> list[int]:
        if 1 in asked:
            raise RuntimeError("broken")
        return list(asked)

    async def run() -> None:
        batcher: Batcher[int, int] = Batcher(answer, window=0.0)
        found = await asyncio.gather(batcher.ask(1), batcher.ask(2), return_exceptions=True)
        assert [str(one) for one in found] == ["broken", "broken"]
        assert await batcher.ask(3) == 3
        await batcher.close()

    asyncio.run(run())


def test_a_batch_of_different_requests_gives_what_each_gives_alone(live: Live, shop: Shop):
    live.change([Upsert([Item(raw_id="new", title="Walnut cake stand")])])
    ids = [*shop.ids, "new", "nix"]
    asked = [
        RecommendRequest(
            histories=[
                [ids[(number * 7 + step) % len(ids)] for step in range(1 + number % 9)] for _ in range(1 + number % 3)
            ],
            k=1 + number % 13,
            exclude_seen=(True, False, "learned")[number % 3],
            filters=(None, "price < 40", "brand != 'Acme'")[number % 3],
            within=(None, None, ids[5:30], ids[10:12])[number % 4],
        )
        for number in range(60)
    ]
    together = live.recommend(asked, 100)
    alone = [live.recommend([one], 100)[0] for one in asked]
    import orjson

    for one, other in zip(together, alone, strict=True):
        assert not isinstance(one, Exception) and not isinstance(other, Exception)
        left, right = orjson.loads(one.content), orjson.loads(other.content)
        for mine, its in zip(left["recommendations"], right["recommendations"], strict=True):
            assert [each.pop("score") for each in mine] == pytest.approx([each.pop("score") for each in its], abs=1e-5)
        assert left == right


# -- changes while requests run ----------------------------------------------------------------------------------------


def test_every_answer_is_of_one_state_of_the_catalogue(api: TestClient, shop: Shop):
    """Two items are always added together and removed together: no answer may have one of them."""
    pair = {"items": [{"raw_id": name, "title": f"Walnut cake stand {name}"} for name in ("left", "right")]}
    done = threading.Event()
    body = {"histories": [shop.ids[:3]] * 4, "k": 1_000}
    seen: list[tuple[bool, bool]] = []

    def ask() -> None:
        while not done.is_set():
            for listed in api.post("/v1/recommend", json=body).json()["recommendations"]:
                found = {one["raw_id"] for one in listed}
                assert len(found) == len(listed)
                seen.append(("left" in found, "right" in found))

    with ThreadPoolExecutor(3) as threads:
        asking = [threads.submit(ask) for _ in range(3)]
        try:
            for number in range(10):
                titled = [{**item, "title": f"{item['title']} {number}"} for item in pair["items"]]
                assert api.put("/v1/items", json={"items": titled}).json()["upserted"] == 2
        finally:
            done.set()
        for one in asking:
            one.result()
    assert all(left == right for left, right in seen)
    assert any(left for left, _ in seen)


def test_many_changes_at_once_are_all_there(api: TestClient, shop: Shop, live: Live):
    def put(number: int) -> int:
        item = {"raw_id": f"n{number}", "title": f"Thing number {number}"}
        return api.put("/v1/items", json={"items": [item]}).json()["sequence"]

    with ThreadPoolExecutor(16) as threads:
        sequences = list(threads.map(put, range(60)))
    assert api.get("/v1/items", params={"q": "thing number"}).json()["total"] == 60
    assert live.store.last_sequence() == max(sequences) == 60
    assert len(live.served.recommender.catalogue) == len(shop.ids) + 60


def test_of_changes_of_one_item_in_one_batch_the_last_counts(live: Live, shop: Shop):
    gone, kept = shop.ids[0], "x"
    found = live.change(
        [
            Removal("x"),
            Upsert([Item(raw_id="x", title="First")]),
            Removal("x"),
            Removal("x"),
            Upsert([Item(raw_id="x", title="Second"), Item(raw_id="y", colour="red")]),
            Removal(gone),
        ]
    )
    kinds = [one.status if isinstance(one, Problem) else dict(one.refused) for one in found]
    assert kinds[:4] == [404, {}, {}, 404] and kinds[5] == {}
    assert list(kinds[4]) == [1] and "colour" in kinds[4][1]
    catalogue = live.served.recommender.catalogue
    assert catalogue.title(int(catalogue.find([kept])[0])) == "Second"
    assert catalogue.removed[catalogue.find([gone])[0]]
    assert {change.raw_id for change in live.store.changes_after(0)} == {"x", gone}


def test_replacing_one_item_for_ever_does_not_fill_the_memory(live: Live, shop: Shop, monkeypatch: pytest.MonkeyPatch):
    from linguarec.serving import live as module

    monkeypatch.setattr(module, "_SPARE_ROWS", 20)
    for number in range(60):
        live.change([Upsert([Item(raw_id="x", title=f"Version {number}")])])
    catalogue = live.served.recommender.catalogue
    assert catalogue.title(int(catalogue.find(["x"])[0])) == "Version 59"
    assert len(catalogue) <= len(shop.ids) + 22


# -- the state ---------------------------------------------------------------------------------------------------------


def test_two_services_on_one_state_see_each_others_changes(shop: Shop, tmp_path: Path):
    from service import api_of

    state = str(tmp_path / "state.sqlite")
    first, second = Live.open(shop.run, state), Live.open(shop.run, state)
    with api_of(shop, first) as one, api_of(shop, second) as other:
        one.put("/v1/items", json={"items": [{"raw_id": "mine", "title": "Walnut cake stand"}]})
        other.put("/v1/items", json={"items": [{"raw_id": "yours", "title": "Oak cake stand"}]})
        one.delete(f"/v1/items/{shop.ids[0]}")
        for api in (one, other):
            wait_until(lambda api=api: api.get("/v1/model").json()["sequence"] == 3, 5)
        body = {"histories": [shop.ids[1:4]], "k": 1_000}
        answers = [api.post("/v1/recommend", json=body).json() for api in (one, other)]
        found = [{item["raw_id"]: item["score"] for item in answer["recommendations"][0]} for answer in answers]
        assert set(found[0]) == set(shop.ids) - set(shop.ids[:4]) | {"mine", "yours"}
        assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_a_service_that_starts_again_knows_everything_without_encoding(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from linguarec.sources.embeddings import EmbeddingSource

    state = str(tmp_path / "state.sqlite")
    live = Live.open(shop.run, state)
    live.change([Upsert([Item(raw_id=f"n{row}", title=f"Thing {row}") for row in range(5)]), Removal(shop.ids[0])])
    live.change([Upsert([Item(raw_id="n1", title="Another thing")]), Removal("n2")])
    before = live.recommend([RecommendRequest(histories=[shop.ids[1:4]], k=1_000)], 10)
    live.close()

    def refuse(*arguments: object) -> None:
        raise AssertionError("a text was encoded")

    monkeypatch.setattr(EmbeddingSource, "new_vectors", refuse)
    again = Live.open(shop.run, state)
    import orjson

    left, right = (
        orjson.loads(found[0].content)  # type: ignore[union-attr]
        for found in (before, again.recommend([RecommendRequest(histories=[shop.ids[1:4]], k=1_000)], 10))
    )
    for mine, its in zip(left["recommendations"][0], right["recommendations"][0], strict=True):
        assert mine.pop("score") == pytest.approx(its.pop("score"), abs=1e-5) and mine == its
    again.close()


# -- reloading ---------------------------------------------------------------------------------------------------------


def test_a_run_with_another_catalogue_gets_the_items_that_were_added(api: TestClient, shop: Shop, live: Live):
    api.put("/v1/items", json={"items": [{"raw_id": "new", "title": "Walnut cake stand", "brand": "Acme", "price": 4}]})
    api.put("/v1/items", json={"items": [{"raw_id": "priced", "price": 4}]})
    api.delete(f"/v1/items/{shop.ids[0]}")
    answer = api.post("/v1/reload", json={"run": "other"}).json()
    assert (answer["run"], answer["same_catalogue"]) == ("other", False)
    assert answer["applied"] == {"added": 1, "removed": 0, "unchanged": 1, "left_out": 1}
    assert list(answer["left_out"]) == ["priced"] and "cannot be read" in answer["left_out"]["priced"]
    assert answer["items"] == len(Recommender.load(shop.other).catalogue) + 1
    assert api.get("/v1/items/new").json()["attributes"] == {"title": "Walnut cake stand"}
    assert api.get("/v1/model").json()["left_out"] == answer["left_out"]
    library = Recommender.load(shop.other)
    library.add_items([{"raw_id": "new", "title": "Walnut cake stand"}])
    history = [library.catalogue.raw_id(0), "new"]
    [found] = api.post("/v1/recommend", json={"histories": [history], "k": 5}).json()["recommendations"]
    assert [one["raw_id"] for one in found] == [one.raw_id for one in library.recommend(history, 5)]
    back = api.post("/v1/reload", json={"run": "run"}).json()
    assert back["applied"] == {"added": 2, "removed": 1, "unchanged": 0, "left_out": 0} and not back["same_catalogue"]
    assert api.get("/v1/items/new").json()["attributes"] == {
        "title": "Walnut cake stand",
        "brand": "Acme",
        "price": 4.0,
    }
    assert api.get(f"/v1/items/{shop.ids[0]}").status_code == 404


@pytest.mark.parametrize("broken", ["missing", "cut", "empty"])
def test_a_broken_run_leaves_the_old_one_serving(api: TestClient, shop: Shop, broken: str):
    import shutil

    body = {"histories": [shop.ids[:3]], "k": 5}
    api.put("/v1/items", json={"items": [{"raw_id": "new", "title": "Walnut cake stand"}]})
    before = api.post("/v1/recommend", json=body).json()
    folder = shop.run.with_name(f"broken-{broken}")
    if broken != "missing":
        shutil.copytree(shop.run, folder, dirs_exist_ok=True)
        if broken == "cut":
            keys = (folder / "keys.npy").read_bytes()
            (folder / "keys.npy").write_bytes(keys[: len(keys) // 2])
        else:
            (folder / "model.safetensors").write_bytes(b"")
    answer = api.post("/v1/reload", json={"run": folder.name})
    assert answer.status_code == 422 and folder.name in answer.json()["detail"]
    assert api.post("/v1/recommend", json=body).json() == before
    assert api.get("/v1/model").json()["run"] == "run"
    assert 'linguarec_reloads_total{result="failed"} 1.0' in api.get("/metrics").text


def test_a_reload_takes_what_was_changed_meanwhile(live: Live, shop: Shop, monkeypatch: pytest.MonkeyPatch):
    from linguarec.serving import live as module

    opened, proceed = threading.Event(), threading.Event()
    really = module.fingerprint_of

    def wait(run: Path) -> str:
        opened.set()
        assert proceed.wait(30)
        return really(run)

    monkeypatch.setattr(module, "fingerprint_of", wait)
    with ThreadPoolExecutor(1) as thread:
        reloading = thread.submit(live.reload)
        assert opened.wait(30)
        live.change([Upsert([Item(raw_id="meanwhile", title="Walnut cake stand")]), Removal(shop.ids[0])])
        with pytest.raises(Problem, match="A reload is running") as caught:
            live.reload()
        assert caught.value.status == 409
        proceed.set()
        done = reloading.result()
    assert (done.applied.added, done.applied.removed) == (["meanwhile"], [shop.ids[0]])
    catalogue = live.served.recommender.catalogue
    assert catalogue.find(["meanwhile"])[0] == len(shop.ids) and catalogue.removed[catalogue.find([shop.ids[0]])[0]]
    assert live.sequence == 2
