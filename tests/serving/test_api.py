"""Answers of the API against those of the library."""

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from service import WIDTH, Shop, api_of
from starlette.testclient import TestClient

from linguarec.recommender import Recommender
from linguarec.serving.live import Live
from linguarec.serving.schemas import RecommendRequest
from linguarec.serving.state_errors import StateBrokenError, StateUnavailableError


def pairs(listed: list[dict]) -> list[tuple[str, float]]:
    return [(one["raw_id"], pytest.approx(one["score"], abs=1e-5)) for one in listed]


def own(recommender: Recommender, histories: list[list[str]], **arguments) -> list[list[tuple[str, float]]]:
    return [[(one.raw_id, one.score) for one in found] for found in recommender.recommend(histories, **arguments)]


@pytest.fixture(scope="module")
def recommender(shop: Shop) -> Recommender:
    return Recommender.load(shop.run)


@pytest.mark.parametrize("exclude_seen", [True, False, "learned"])
@pytest.mark.parametrize("k", [1, 7, 1_000])
def test_recommendations_are_those_of_the_library(
    api: TestClient, shop: Shop, recommender: Recommender, exclude_seen: bool | str, k: int
):
    histories = [shop.ids[:3], shop.ids[4:5], shop.ids[10:20]]
    answer = api.post("/v1/recommend", json={"histories": histories, "k": k, "exclude_seen": exclude_seen}).json()
    expected = own(recommender, histories, k=k, exclude_seen=exclude_seen)
    assert [pairs(listed) for listed in answer["recommendations"]] == expected
    assert [one["rank"] for one in answer["recommendations"][0]] == list(range(1, len(expected[0]) + 1))
    assert answer["unknown"] == [[], [], []]
    assert answer["model"] == {"run": "run", "sequence": 0}


def test_an_item_is_shown_with_its_title_and_attributes(api: TestClient, shop: Shop):
    answer = api.post("/v1/recommend", json={"histories": [shop.ids[:2]], "within": [shop.ids[5]]}).json()
    [[one]] = answer["recommendations"]
    seen = api.get(f"/v1/items/{shop.ids[5]}").json()
    assert one["raw_id"] == seen["raw_id"] == shop.ids[5]
    assert one["title"] == seen["title"] == one["attributes"]["title"]
    assert one["attributes"] == seen["attributes"]
    assert one["attributes"]["price"] == 7.5
    assert one["trained"] and seen["trained"] and seen["text"].startswith(seen["title"])


def test_within_and_filters_leave_only_such_candidates(api: TestClient, shop: Shop, recommender: Recommender):
    some = shop.ids[20:40]
    body = {"histories": [shop.ids[:3]], "k": 100, "within": some, "filters": "price < 45"}
    [found] = api.post("/v1/recommend", json=body).json()["recommendations"]
    assert pairs(found) == own(recommender, [shop.ids[:3]], k=100, within=some, filters="price < 45")[0]
    assert {one["raw_id"] for one in found} == set(shop.ids[20:30])


@pytest.mark.parametrize("exclude_seen", [True, "learned"])
def test_explained_recommendations_are_those_of_the_library(
    api: TestClient, shop: Shop, recommender: Recommender, exclude_seen: bool | str
):
    histories = [shop.ids[:3], shop.ids[4:5]]
    body = {"histories": histories, "k": 4, "exclude_seen": exclude_seen}
    assert "reasons" not in api.post("/v1/recommend", json=body).json()["recommendations"][0][0]
    answer = api.post("/v1/recommend", json={**body, "explain": True}).json()["recommendations"]
    expected = recommender.recommend(histories, k=4, exclude_seen=exclude_seen, explain=True)
    for found, of_history in zip(answer, expected, strict=True):
        assert pairs(found) == [(one.raw_id, one.score) for one in of_history]
        for shown, one in zip(found, of_history, strict=True):
            shares = {reason["raw_id"]: reason["share"] for reason in shown["reasons"]}
            assert shares == {each.raw_id: pytest.approx(each.share, abs=1e-4) for each in one.reasons or ()}
            assert shown["parts"] == pytest.approx(one.parts, abs=1e-4)
            assert sum(shown["parts"].values()) == pytest.approx(shown["score"], abs=1e-4)


def test_few_items_are_explained_at_once(api: TestClient, shop: Shop):
    body = {"histories": [shop.ids[:1]] * 3, "k": 1_000}
    assert api.post("/v1/recommend", json=body).status_code == 200
    refused = api.post("/v1/recommend", json={**body, "explain": True})
    assert (refused.status_code, refused.json()["field"]) == (422, "explain")
    assert refused.json()["detail"].startswith("explain is asked for 3,000 items; this service explains 2,000")


def test_unknown_ids_are_left_out_and_named(api: TestClient, shop: Shop, recommender: Recommender):
    histories = [[], [shop.ids[0], "nix", shop.ids[1], "nax"], ["nix"]]
    answer = api.post("/v1/recommend", json={"histories": histories, "k": 3}).json()
    assert answer["unknown"] == [[], ["nix", "nax"], ["nix"]]
    assert pairs(answer["recommendations"][1]) == own(recommender, [shop.ids[:2]], k=3)[0]
    assert answer["recommendations"][0] == answer["recommendations"][2] == []


def test_similar_items_are_those_of_the_library(api: TestClient, shop: Shop, recommender: Recommender):
    answer = api.post("/v1/similar", json={"items": [shop.ids[0], "nix", shop.ids[7]], "k": 5}).json()
    expected = [
        [(one.raw_id, one.score) for one in found] for found in recommender.similar_items([shop.ids[0], shop.ids[7]], 5)
    ]
    assert [pairs(answer["recommendations"][place]) for place in (0, 2)] == expected
    assert answer["recommendations"][1] == [] and answer["unknown"] == ["nix"]
    filtered = api.post("/v1/similar", json={"items": [shop.ids[0]], "k": 50, "filters": "price <= 3"}).json()
    assert {one["raw_id"] for one in filtered["recommendations"][0]} == {shop.ids[1], shop.ids[2]}


def test_a_text_is_most_similar_to_the_item_with_that_text(api: TestClient, shop: Shop):
    item = api.get(f"/v1/items/{shop.ids[3]}").json()
    for text in (item["text"], item["attributes"]):
        [found] = api.post("/v1/similar", json={"text": text, "k": 3}).json()["recommendations"]
        assert found[0]["raw_id"] == shop.ids[3]
        assert found[0]["score"] == pytest.approx(1.0, abs=1e-4)


def test_an_upserted_item_is_in_the_next_answer_as_if_the_library_had_added_it(
    api: TestClient, shop: Shop, recommender: Recommender
):
    item = {"raw_id": "new/1 ü", "title": "Walnut cake stand", "brand": "Acme", "price": 3}
    done = api.put("/v1/items", json={"items": [item]}).json()
    assert done == {"upserted": 1, "refused": [], "sequence": 1}
    library = Recommender.load(shop.run)
    library.add_items([item])
    histories = [[shop.ids[0], "new/1 ü"], shop.ids[:3]]
    answer = api.post("/v1/recommend", json={"histories": histories, "k": 100}).json()
    assert [pairs(listed) for listed in answer["recommendations"]] == own(library, histories, k=100)
    assert {one["raw_id"] for one in answer["recommendations"][1] if not one["trained"]} == {"new/1 ü"}
    assert answer["model"]["sequence"] == 1
    assert api.get("/v1/items/new%2F1%20%C3%BC").json() == {
        "raw_id": "new/1 ü",
        "title": "Walnut cake stand",
        "attributes": {"title": "Walnut cake stand", "brand": "Acme", "price": 3.0},
        "text": library.catalogue.text(len(library.catalogue) - 1),
        "trained": False,
    }


def test_a_replaced_item_is_one_item_with_its_new_text(api: TestClient, shop: Shop, live: Live):
    before = api.get(f"/v1/items/{shop.ids[0]}").json()
    change = {"raw_id": shop.ids[0], "title": "Something else altogether", "price": 1}
    assert api.put("/v1/items", json={"items": [change]}).json()["upserted"] == 1
    after = api.get(f"/v1/items/{shop.ids[0]}").json()
    assert after["title"] == "Something else altogether" and not after["trained"]
    body = {"histories": [shop.ids[1:3]], "k": 1_000}
    found = [one["raw_id"] for one in api.post("/v1/recommend", json=body).json()["recommendations"][0]]
    assert sorted(found) == sorted(set(shop.ids) - set(shop.ids[1:3]))
    again = {"raw_id": shop.ids[0], "attributes": before["attributes"]}
    assert api.put("/v1/items", json={"items": [again]}).json()["upserted"] == 1
    assert api.get(f"/v1/items/{shop.ids[0]}").json()["text"] == before["text"]
    assert len(live.served.recommender.catalogue) == len(shop.ids) + 2


def test_an_item_that_is_there_as_it_is_changes_nothing(api: TestClient, shop: Shop, live: Live):
    trained = {"raw_id": shop.ids[0], "attributes": api.get(f"/v1/items/{shop.ids[0]}").json()["attributes"]}
    assert api.put("/v1/items", json={"items": [trained]}).json()["upserted"] == 1
    assert api.get(f"/v1/items/{shop.ids[0]}").json()["trained"]
    new = {"raw_id": "new", "title": "A new thing"}
    first = api.put("/v1/items", json={"items": [new]}).json()
    second = api.put("/v1/items", json={"items": [new]}).json()
    assert first["sequence"] == second["sequence"] == live.store.last_sequence() == 2
    assert len(live.served.recommender.catalogue) == len(shop.ids) + 1


def test_a_removed_item_is_not_recommended_and_still_counts_in_histories(
    api: TestClient, shop: Shop, recommender: Recommender
):
    gone = shop.ids[4]
    assert api.delete(f"/v1/items/{gone}").json() == {"removed": gone, "sequence": 1}
    assert api.delete(f"/v1/items/{gone}").status_code == 404
    assert api.get(f"/v1/items/{gone}").status_code == 404
    [found] = api.post("/v1/recommend", json={"histories": [[gone, shop.ids[0]]], "k": 1_000}).json()["recommendations"]
    assert pairs(found) == own(recommender, [[gone, shop.ids[0]]], k=1_000)[0]
    [found] = api.post("/v1/recommend", json={"histories": [[shop.ids[0]]], "k": 1_000}).json()["recommendations"]
    assert gone not in {one["raw_id"] for one in found}
    back = {"raw_id": gone, "title": "It is back"}
    assert api.put("/v1/items", json={"items": [back]}).json()["upserted"] == 1
    assert api.get(f"/v1/items/{gone}").json()["title"] == "It is back"


def test_given_vectors_are_taken_instead_of_texts(api: TestClient, shop: Shop):
    vector = np.random.default_rng(0).standard_normal(WIDTH).astype(np.float32)
    items = [{"raw_id": "v", "title": "By its vector", "vector": vector.tolist()}]
    assert api.put("/v1/items", json={"items": items}).json()["upserted"] == 1
    library = Recommender.load(shop.run)
    library.add_items([{"raw_id": "v", "title": "By its vector"}], vectors=vector[None])
    answer = api.post("/v1/recommend", json={"histories": [["v"]], "k": 10}).json()
    assert pairs(answer["recommendations"][0]) == own(library, [["v"]], k=10)[0]


def test_bad_items_are_refused_with_their_row_and_the_others_taken(api: TestClient, shop: Shop):
    items = [
        {"raw_id": "good", "title": "Good"},
        {"raw_id": "colour", "title": "Bad", "colour": "red"},
        {"title": "No id"},
        {"raw_id": "priced", "title": "Bad", "price": "cheap"},
        {"raw_id": "true", "title": True},
        "text",
        {"raw_id": "empty"},
        {"raw_id": "blank", "title": "  "},
        {"raw_id": "narrow", "title": "Bad", "vector": [1.0, 2.0]},
        {"raw_id": "also good", "title": "Good too", "category": ["A", "B"]},
    ]
    expected = [1, 2, 3, 4, 5, 6, 7, 8]
    for content, kind in (
        (json.dumps({"items": items}), "application/json"),
        ("\n".join(map(json.dumps, items)), "application/x-ndjson"),
    ):
        answer = api.put("/v1/items", content=content, headers={"Content-Type": kind}).json()
        assert answer["upserted"] == 2
        assert [one["row"] for one in answer["refused"]] == expected
        assert all(one["reason"].endswith(".") and len(one["reason"]) > 20 for one in answer["refused"]), answer
    assert api.get("/v1/items/also good").json()["attributes"]["category"] == "A > B"


def test_of_one_id_twice_the_last_one_counts(api: TestClient):
    items = [{"raw_id": "twice", "title": "First"}, {"raw_id": "twice", "title": "Second"}]
    assert api.put("/v1/items", json={"items": items}).json()["upserted"] == 2
    assert api.get("/v1/items/twice").json()["title"] == "Second"


def test_thousands_of_items_stream_in_one_call(api: TestClient, shop: Shop):
    vector = [0.5] * WIDTH
    lines = [json.dumps({"raw_id": f"s{row}", "title": f"Thing {row}", "vector": vector}) for row in range(2_000)]
    lines[700] = "{"
    headers = {"Content-Type": "application/x-ndjson"}

    def parts():
        whole = "\n".join(lines).encode()
        for start in range(0, len(whole), 50_001):
            yield whole[start : start + 50_001]

    answer = api.put("/v1/items", content=parts(), headers=headers).json()
    assert answer["upserted"] == 1_999
    assert [one["row"] for one in answer["refused"]] == [700]
    assert api.get("/v1/items", params={"q": "thing", "limit": 1}).json()["total"] == 1_999
    assert api.get("/v1/model").json()["items"] == len(shop.ids) + 1_999


def test_events_make_the_history_of_a_user(api: TestClient, shop: Shop, recommender: Recommender):
    first, second = shop.ids[:2]
    events = [{"user": "u 1", "raw_id": second, "timestamp": 20}, {"user": "u 1", "raw_id": first, "timestamp": 10}]
    done = api.post("/v1/events", json={"events": [*events, {"user": "u2", "raw_id": "nix"}]}).json()
    assert done == {"accepted": 3, "repeated": False, "unknown": ["nix"]}
    answer = api.get("/v1/users/u%201/recommendations", params={"k": 5}).json()
    expected = own(recommender, [[first, second]], k=5)
    assert [pairs(listed) for listed in answer["recommendations"]] == expected
    several = api.post("/v1/recommend", json={"users": ["nobody", "u 1", "u2"], "k": 5}).json()
    assert [pairs(listed) for listed in several["recommendations"]] == [[], expected[0], []]
    assert several["unknown"] == [[], [], ["nix"]]
    assert api.get("/v1/users/nobody/recommendations").status_code == 404
    assert api.get("/v1/users/u2/recommendations").status_code == 404


def test_a_repeated_call_with_its_key_adds_nothing(api: TestClient, shop: Shop, live: Live):
    body = {"events": [{"user": "u", "raw_id": shop.ids[0]}]}
    headers = {"Idempotency-Key": "one"}
    assert not api.post("/v1/events", json=body, headers=headers).json()["repeated"]
    assert api.post("/v1/events", json=body, headers=headers).json()["repeated"]
    assert live.store.history("u", 10) == [shop.ids[0]]
    other = api.post("/v1/events", json={"events": [{"user": "u", "raw_id": shop.ids[1]}]}, headers=headers)
    assert other.status_code == 409 and other.json()["field"] == "Idempotency-Key"
    assert api.post("/v1/events", json=body).json()["repeated"] is False
    assert live.store.history("u", 10) == [shop.ids[0]] * 2


def test_the_catalogue_is_searched_by_words_of_titles_and_by_id(api: TestClient, shop: Shop, live: Live):
    api.put("/v1/items", json={"items": [{"raw_id": "zz-1", "title": "Blue Samovar of zinc"}]})
    api.put("/v1/items", json={"items": [{"raw_id": "zz-2", "title": "A zinc SAMOVAR, zz-1"}]})
    assert [one["raw_id"] for one in api.get("/v1/items", params={"q": "samovar ZINC"}).json()["items"]] == [
        "zz-1",
        "zz-2",
    ]
    assert api.get("/v1/items", params={"q": "a zinc"}).json()["items"][0]["raw_id"] == "zz-2"
    assert [one["raw_id"] for one in api.get("/v1/items", params={"q": "zz-1"}).json()["items"]] == ["zz-1", "zz-2"]
    assert api.get("/v1/items", params={"q": "(.*"}).json() == {"items": [], "total": 0}
    every = api.get("/v1/items", params={"limit": 2, "offset": 1}).json()
    assert [one["raw_id"] for one in every["items"]] == live.served.recommender.catalogue.raw_ids[1:3]
    assert every["total"] == len(shop.ids) + 2
    api.delete("/v1/items/zz-1")
    assert [one["raw_id"] for one in api.get("/v1/items", params={"q": "samovar"}).json()["items"]] == ["zz-2"]


def test_what_is_served_is_described(api: TestClient, shop: Shop):
    found = api.get("/v1/model").json()
    metrics = json.loads((shop.run / "metrics.json").read_text())
    assert (found["run"], found["model"], found["items"]) == ("run", "sasrec-text", len(shop.ids))
    assert found["attributes"] == ["title", "brand", "category", "price"] and found["number_attributes"] == ["price"]
    assert found["metrics"]["test"] == metrics["test"]
    assert found["takes_new_items"] and found["learned_repeats"]
    assert found["state"] == {"items": 0, "removed": 0, "events": 0, "users": 0}
    assert api.get("/healthz").json() == {"status": "ok"}
    assert api.get("/readyz").json() == {"status": "ready", "state": "ok"}


def test_a_model_of_ids_refuses_new_items_and_takes_removals(shop: Shop, tmp_path: Path):
    live = Live.open(shop.by_id, str(tmp_path / "state.sqlite"))
    with api_of(shop, live) as api:
        answer = api.put("/v1/items", json={"items": [{"raw_id": "new", "title": "New"}]})
        assert answer.status_code == 422 and "cannot rank new ones" in answer.json()["detail"]
        assert api.post("/v1/similar", json={"text": "New"}).status_code == 422
        assert api.delete(f"/v1/items/{shop.ids[0]}").status_code == 200
        assert live.store.counts()["items"] == 0


def test_histories_of_a_prepared_folder_are_those_of_its_users(shop: Shop, tmp_path: Path, recommender: Recommender):
    from linguarec.data.dataset import PreparedDataset

    state = str(tmp_path / "state.sqlite")
    Live.open(shop.run, state, shop.data).close()
    live = Live.open(shop.run, state, shop.data)
    data = PreparedDataset.open(shop.data)
    row = data.raw_user_ids.index("u17")
    history = [data.raw_item_ids[item] for item in data.sequences[row].tolist()]
    with api_of(shop, live) as api:
        answer = api.get("/v1/users/u17/recommendations").json()
        assert [pairs(listed) for listed in answer["recommendations"]] == own(recommender, [history])
        assert api.get("/v1/model").json()["state"]["users"] == 300


def test_metrics_count_requests_batches_and_errors(api: TestClient, shop: Shop):
    api.post("/v1/recommend", json={"histories": [shop.ids[:2]]})
    api.post("/v1/recommend", json={"histories": []})
    api.put("/v1/items", json={"items": [{"raw_id": "new", "title": "New"}]})
    text = api.get("/metrics").text
    for line in (
        'linguarec_requests_total{route="/v1/recommend",status="200"} 1.0',
        'linguarec_requests_total{route="/v1/recommend",status="422"} 1.0',
        'linguarec_errors_total{kind="bad-field"} 1.0',
        'linguarec_batch_requests_count{call="recommend"} 1.0',
        'linguarec_batch_requests_sum{call="change"} 1.0',
        'linguarec_request_seconds_count{route="/v1/items"} 1.0',
    ):
        assert line in text, text


def test_while_the_state_is_locked_histories_are_answered_and_changes_wait_their_turn(
    api: TestClient, shop: Shop, tmp_path: Path
):
    """Another process holds the lock of the file: 503 with Retry-After, and afterwards all goes on."""
    body = {"histories": [shop.ids[:3]], "k": 3}
    before = api.post("/v1/recommend", json=body).json()
    change = {"items": [{"raw_id": "new", "title": "Walnut cake stand"}]}
    other = sqlite3.connect(tmp_path / "state.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for call in (
        lambda: api.put("/v1/items", json=change),
        lambda: api.post("/v1/events", json={"events": [{"user": "u", "raw_id": shop.ids[0]}]}),
    ):
        answer = call()
        assert answer.status_code == 503 and answer.json()["type"] == "urn:linguarec:no-state"
        assert int(answer.headers["Retry-After"]) >= 1
    assert api.post("/v1/recommend", json=body).json() == before
    assert api.get("/v1/items/new").status_code == 404
    other.execute("ROLLBACK")
    other.close()
    assert api.put("/v1/items", json=change).json()["upserted"] == 1
    assert api.get("/v1/items/new").json()["title"] == "Walnut cake stand"


def test_a_damaged_state_does_not_ask_to_try_again(api: TestClient, live: Live, monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments: object, **named: object) -> None:
        raise StateBrokenError("The state is damaged. To mend it: restore it from a backup.")

    monkeypatch.setattr(live.store, "add_events", fail)
    answer = api.post("/v1/events", json={"events": [{"user": "u", "raw_id": "a"}]})
    assert answer.status_code == 503 and "Retry-After" not in answer.headers
    assert answer.json()["type"] == "urn:linguarec:broken-state" and "restore it" in answer.json()["detail"]


def test_without_the_state_users_are_refused_and_histories_answered_in_the_same_batch(
    live: Live, shop: Shop, monkeypatch: pytest.MonkeyPatch
):
    def fail(*arguments: object) -> None:
        raise StateUnavailableError("The state cannot be reached at present.")

    monkeypatch.setattr(live.store, "histories", fail)
    asked = [RecommendRequest(users=["u"]), RecommendRequest(histories=[shop.ids[:3]]), RecommendRequest(users=["v"])]
    found = live.recommend(asked, 100)
    assert [isinstance(one, StateUnavailableError) for one in found] == [True, False, True]
