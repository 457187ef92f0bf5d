"""Requests that must not be: each gets a 4xx with a sentence, and says where."""

import json
from typing import Any

import pytest
from service import WIDTH, Shop, api_of
from starlette.testclient import TestClient

from linguarec.serving.live import Live
from linguarec.serving.settings import Limits

A = ["K0000"]
LIMITS = Limits(body_mb=0.25, histories=20, k=50, history_length=30, items=40)
R, S, U, E, L = (
    ("POST", "/v1/recommend"),
    ("POST", "/v1/similar"),
    ("PUT", "/v1/items"),
    ("POST", "/v1/events"),
    ("POST", "/v1/reload"),
)
EVENT = {"user": "u", "raw_id": "K0000"}

# Call, body (text or what becomes JSON), status, field.
BODIES: list[tuple[tuple[str, str], Any, int, str | None]] = [
    # no JSON, or none that is taken
    *(
        (call, body, 400, None)
        for call in (R, S, U, E, L)
        for body in (
            "",
            " ",
            "{",
            "nix",
            "{'a': 1}",
            '{"a": 1,}',
            '{"a": 01}',
            '{"a": "\\ud800"}',
            '{"a": "\\x00"}',
            '{"a": 1}{"a": 1}',
            b'{"a": "\xff"}',
            '{"histories": ' * 10_000,
            "[" * 10_000 + "]" * 10_000,
        )
    ),
    *((call, body, 422, "") for call in (R, S, U, E, L) for body in (None, 1, "text", [], [{}], True, 1.5)),
    # fields that are missing, unknown or of other types
    *((call, {}, 422, field) for call, field in ((U, "items"), (E, "events"))),
    (R, {}, 422, ""),
    (S, {}, 422, ""),
    (R, {"histories": [A], "users": ["u"]}, 422, ""),
    (S, {"items": A, "text": "t"}, 422, ""),
    *((call, {"more": 1, **body}, 422, "more") for call, body in (
        (R, {"histories": [A]}), (S, {"items": A}), (U, {"items": [{}]}), (E, {"events": [EVENT]}), (L, {})
    )),
    *((R, {"histories": value}, 422, "histories") for value in ("a", 1, {}, True, [], {"0": A})),
    *((R, {"histories": [value]}, 422, "histories[0]") for value in ("a", 1, {}, None, True)),
    *((R, {"histories": [A, [value]]}, 422, "histories[1][0]") for value in (1, 1.5, None, True, [], {}, "")),
    (R, {"histories": [["a" * 501]]}, 422, "histories[0][0]"),
    *((R, {"users": value}, 422, "users") for value in ("a", 1, {}, [])),
    *((R, {"users": ["u", value]}, 422, "users[1]") for value in (1, None, "", "u\0", ["u"], "u" * 501)),
    *((R, {"histories": [A], "k": value}, 422, "k") for value in (0, -1, 51, 1 << 70, "5", 1.5, None, True, [1])),
    *((R, {"histories": [A], "exclude_seen": value}, 422, "exclude_seen") for value in (0, 1, "true", "seen", None, [])),
    *((R, {"histories": [A], "within": value}, 422, "within") for value in ("a", 1, [], {}, [A[0]] * 31)),
    *((R, {"histories": [A], "within": [value]}, 422, "within[0]") for value in (1, None, "", [])),
    (R, {"histories": [A], "within": ["nix", "nax"]}, 404, "within"),
    *((R, {"histories": [A], "explain": value}, 422, "explain") for value in (0, "yes", None, [])),
    *((R, {"histories": [A], "filters": value}, 422, "filters") for value in (
        "", 1, [], {}, "x" * 10_001, "price", "price <", "price < 'a'", "colour == 'red'", "price <= 20 and", "((", "a b c",
        "title == \"a", "price < 1e", "__import__('os')", "title in []", "price < NaN", "not", "1 < 2", "\0",
    )),
    (R, {"histories": [A] * 21}, 422, "histories"),
    (R, {"users": ["u"] * 21}, 422, "users"),
    (R, {"histories": [A, A * 31]}, 422, "histories[1]"),
    (R, '{"histories": [["K0000"]], "k": NaN}', 422, "k"),
    (R, '{"histories": [["K0000"]], "k": Infinity}', 422, "k"),
    (R, '{"histories": [["K0000"]], "k": 1e999}', 422, "k"),
    # similar items
    *((S, {"items": value}, 422, "items") for value in ("a", 1, {}, [], A * 21)),
    *((S, {"items": [value]}, 422, "items[0]") for value in (1, None, "", [])),
    (S, {"items": ["nix"]}, 404, "items[0]"),
    *((S, {"text": value}, 422, "text") for value in (1, [], True, "", " ", {}, "x" * 100_001)),
    *((S, {"text": value}, 422, "text") for value in ({"colour": "red"}, {"price": "cheap"})),
    (S, {"text": {"title": True}}, 422, "text.title"),
    (S, '{"text": {"price": NaN}}', 422, "text.price"),
    *((S, {"items": A, "k": value}, 422, "k") for value in (0, 51, "1")),
    (S, {"items": A, "within": ["nix"]}, 404, "within"),
    (S, {"items": A, "filters": "colour == 1"}, 422, "filters"),
    # items: none of them can be taken
    *((U, {"items": value}, 422, "items") for value in ("a", 1, {}, [], None)),
    *((U, {"items": [value]}, 422, "items[0]") for value in (
        None, 1, "a", [], {}, {"title": "t"}, {"raw_id": None, "title": "t"}, {"raw_id": 1, "title": "t"},
        {"raw_id": "", "title": "t"}, {"raw_id": "a\0", "title": "t"}, {"raw_id": "x" * 501, "title": "t"}, {"raw_id": "x"},
        {"raw_id": "x", "title": ""}, {"raw_id": "x", "title": None}, {"raw_id": "x", "title": True},
        {"raw_id": "x", "title": {"a": 1}}, {"raw_id": "x", "title": [1]}, {"raw_id": "x", "title": "t" * 100_001},
        {"raw_id": "x", "title": "t", "price": "cheap"}, {"raw_id": "x", "title": "t", "price": 10**400},
        {"raw_id": "x", "title": "t", "colour": "red"}, {"raw_id": "x", "attributes": {"colour": "red"}},
        {"raw_id": "x", "attributes": "t"}, {"raw_id": "x", "attributes": [["title", "t"]]}, {"raw_id": "x", "attributes": {}},
        {"raw_id": "x", "title": "t", "vector": []}, {"raw_id": "x", "title": "t", "vector": [1.0]},
        {"raw_id": "x", "title": "t", "vector": ["1"] * WIDTH}, {"raw_id": "x", "title": "t", "vector": "1"},
        {"raw_id": "x", "title": "t", "vector": [1e39] * WIDTH},
        {"raw_id": "x", "title": "t", "row": 1}, {"raw_id": "x", "title": "t", "removed": "no"},
    )),
    (U, '{"items": [{"raw_id": "x", "price": NaN, "title": "t"}]}', 422, "items[0]"),
    (U, json.dumps({"items": [{"raw_id": "x", "title": "t", "vector": [1.0] * WIDTH}]}).replace("0]", "NaN]"), 400, None),
    (U, json.dumps({"items": [{"raw_id": "x", "title": "t", "vector": [float("nan")] * WIDTH}]}), 422, "items[0]"),
    (U, {"items": [{"raw_id": str(row), "title": "t"} for row in range(41)]}, 413, "items"),
    # events
    *((E, {"events": value}, 422, "events") for value in ("a", 1, {}, [], None)),
    *((E, {"events": [EVENT, value]}, 422, "events[1]") for value in (None, 1, "a", [])),
    *((E, {"events": [EVENT, {**EVENT, name: value}]}, 422, f"events[1].{name}") for name, value in (
        ("user", None), ("user", 1), ("user", ""), ("user", "u\0"), ("user", "u" * 501), ("raw_id", None), ("raw_id", ["a"]),
        ("raw_id", ""), ("raw_id", "\0"), ("timestamp", "now"), ("timestamp", 1.5), ("timestamp", True),
        ("timestamp", 1 << 63), ("timestamp", -(1 << 63)), ("timestamp", []), ("weight", 1),
    )),
    (E, {"events": [{"user": "u"}]}, 422, "events[0].raw_id"),
    (E, {"events": [{"raw_id": "a"}]}, 422, "events[0].user"),
    (E, {"events": [EVENT] * 41}, 413, "events"),
    # reload
    *((L, {"run": value}, 422, "run") for value in (1, "", [], "..", ".", "../run", "/etc", "a\\b", "a\0b", "x" * 256)),
    (L, {"run": "nix"}, 422, None),
]  # fmt: skip

# Method, path, status, field.
PATHS: list[tuple[str, str, int, str | None]] = [
    *(("GET", path, 404, None) for path in ("/v1", "/v1/", "/v2/recommend", "/v1/nix", "/.env")),
    *(("GET", path, 404, None) for path in ("/v1/users/u", "/docs", "/v1//model")),
    *(("DELETE", path, 405, None) for path in ("/v1/items", "/v1/recommend", "/v1/model", "/healthz", "/metrics")),
    *(("GET", path, 405, None) for path in ("/v1/recommend", "/v1/similar", "/v1/events", "/v1/reload")),
    *(("POST", path, 405, None) for path in ("/v1/items", "/v1/model", "/v1/items/a")),
    *(("GET", f"/v1/items/{name}", 404, "raw_id") for name in ("nix", "%00", "%FF", "..%2F..%2Fetc", "a" * 3_000)),
    *(("DELETE", f"/v1/items/{name}", 404, "raw_id") for name in ("nix", "%00", "a" * 3_000)),
    *(("GET", f"/v1/items?{name}=-1", 422, name) for name in ("limit", "offset")),
    *(("GET", f"/v1/items?limit={value}", 422, "limit") for value in ("0", "1001", "a", "1.5", "1e9", "9" * 30)),
    *(("GET", f"/v1/items?offset={value}", 422, "offset") for value in ("a", "9" * 30)),
    ("GET", f"/v1/items?q={'a' * 1_001}", 422, "q"),
    ("GET", "/v1/users/nobody/recommendations", 404, "user"),
    *(("GET", f"/v1/users/u/recommendations?k={value}", 422, "k") for value in ("0", "51", "-1", "a", "1.5", "")),
    ("GET", "/v1/users/u/recommendations?exclude_seen=maybe", 422, "exclude_seen"),
    ("GET", "/v1/users/u/recommendations?explain=maybe", 422, "explain"),
    ("GET", "/v1/users/u/recommendations?filters=", 422, "filters"),
    ("GET", "/v1/users/u%00/recommendations", 422, "users[0]"),
    ("GET", f"/v1/users/{'u' * 501}/recommendations", 422, "users[0]"),
]  # fmt: skip


@pytest.fixture(scope="module")
def strict(shop: Shop, tmp_path_factory: pytest.TempPathFactory):
    """An application with small limits, whose catalogue and state must stay as they are."""
    live = Live.open(shop.run, str(tmp_path_factory.mktemp("strict") / "state.sqlite"))
    with api_of(shop, live, limits=LIMITS) as client:
        yield client
        assert live.store.last_sequence() == 0
        assert live.store.counts() == {"items": 0, "removed": 0, "events": 0, "users": 0}


def check(answer: Any, status: int, field: str | None) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status and problem["type"].startswith("urn:linguarec:")
    assert len(problem["detail"]) > 10 and problem["detail"].rstrip()[-1] in ".?", problem
    assert "Traceback" not in answer.text and "/src/" not in answer.text
    if field is not None:
        assert problem.get("field", "") == field, problem
        assert problem["mend"]


def test_the_table_is_long():
    assert len(BODIES) + len(PATHS) >= 200


@pytest.mark.parametrize("number", range(len(BODIES)))
def test_bad_bodies(strict: TestClient, number: int):
    (method, path), body, status, field = BODIES[number]
    written = (
        isinstance(body, bytes) or (isinstance(body, str) and status == 400) or (isinstance(body, str) and "{" in body)
    )
    content = body if written else json.dumps(body)
    answer = strict.request(method, path, content=content, headers={"Content-Type": "application/json"})
    check(answer, status, field)


@pytest.mark.parametrize(("method", "path", "status", "field"), PATHS)
def test_bad_paths_and_parameters(strict: TestClient, method: str, path: str, status: int, field: str | None):
    check(strict.request(method, path), status, field)


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml"]
)
@pytest.mark.parametrize("call", [R, S, U, E, L])
def test_other_media_types(strict: TestClient, call: tuple[str, str], kind: str):
    answer = strict.request(*call, content=b"{}", headers={"Content-Type": kind} if kind else {})
    check(answer, 415, "Content-Type")


@pytest.mark.parametrize("call", [R, S, U, E, L])
@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
def test_large_bodies(strict: TestClient, call: tuple[str, str], kind: str):
    content = b" " * (1 << 20) + b"{}"

    def parts():  # without a declared length
        yield from (content[start : start + 65_536] for start in range(0, len(content), 65_536))

    for body in (content, parts()):
        answer = strict.request(*call, content=body, headers={"Content-Type": kind})
        if kind == "application/json" or call == U:
            check(answer, 413, None)
        else:
            check(answer, 415, "Content-Type")


def test_bad_lines_of_items(strict: TestClient):
    headers = {"Content-Type": "application/x-ndjson"}
    check(strict.put("/v1/items", content=b"", headers=headers), 422, "items")
    check(strict.put("/v1/items", content=b"\n \n", headers=headers), 422, "items")
    check(strict.put("/v1/items", content=b'{"items": []}\n[1]\n{"raw_id": 1}', headers=headers), 422, "items[0]")
    check(strict.put("/v1/items", content=b"[]\n" * 41, headers=headers), 413, "items")


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_bad_keys(strict: TestClient, key: str):
    answer = strict.post("/v1/events", json={"events": [EVENT]}, headers={"Idempotency-Key": key})
    check(answer, 422, "Idempotency-Key")
