"""Who may call, and the headers that protect the page."""

import hmac
from pathlib import Path
from typing import Any

import pytest
from service import Shop, api_of
from starlette.testclient import TestClient

from linguarec.errors import SettingsError
from linguarec.serving import guard
from linguarec.serving.app import create_app
from linguarec.serving.guard import Tokens, page_policy
from linguarec.serving.live import Live
from linguarec.serving.settings import ServiceSettings

TOKEN = "correct-horse-battery-staple"
WRITES: list[tuple[str, str, Any]] = [
    ("PUT", "/v1/items", {"items": [{"raw_id": "new", "title": "New"}]}),
    ("DELETE", "/v1/items/K0001", None),
    ("POST", "/v1/events", {"events": [{"user": "u", "raw_id": "K0001"}]}),
    ("POST", "/v1/reload", {}),
]
READS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/recommend", {"histories": [["K0001"]]}),
    ("POST", "/v1/similar", {"items": ["K0001"]}),
    ("GET", "/v1/items", None),
    ("GET", "/v1/model", None),
    ("GET", "/metrics", None),
    ("GET", "/openapi.json", None),
]
OPEN = ("/healthz", "/readyz")


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(f"# the first one is on its way out\nan-older-token-of-ours\n{TOKEN}\n")
    return file


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(("method", "path", "body"), WRITES)
def test_changes_need_a_token(shop: Shop, live: Live, token_file: Path, method: str, path: str, body: Any):
    with api_of(shop, live, token_file=token_file) as api:
        wrong = ("wrong", "", TOKEN[:-1], TOKEN.upper(), f"{TOKEN} {TOKEN}")
        others = ({"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"}, {"Cookie": f"token={TOKEN}"})
        for headers in ({}, *map(bearer, wrong), *others):
            answer = api.request(method, path, json=body, headers=headers)
            assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
            assert answer.json()["field"] == "Authorization"
        assert live.store.counts() == {"items": 0, "removed": 0, "events": 0, "users": 0}
        for token in (TOKEN, "an-older-token-of-ours"):
            done = api.request(method, path, json=body, headers=bearer(token))
            assert done.status_code == 200 or (method == "DELETE" and done.status_code == 404), done.text


@pytest.mark.parametrize(("method", "path", "body"), READS)
def test_reading_needs_a_token_only_if_asked(
    shop: Shop, live: Live, token_file: Path, method: str, path: str, body: Any
):
    with api_of(shop, live, token_file=token_file) as api:
        assert api.request(method, path, json=body).status_code == 200
    guarded = Live.open(shop.run, f"{token_file}.sqlite")
    with api_of(shop, guarded, token_file=token_file, protect_reads=True) as api:
        assert api.request(method, path, json=body).status_code == 401
        assert api.request(method, path, json=body, headers=bearer(TOKEN)).status_code == 200
        for name in OPEN:
            assert api.get(name).status_code == 200


def test_tokens_are_compared_in_constant_time(token_file: Path, monkeypatch: pytest.MonkeyPatch):
    compared: list[tuple[int, int]] = []
    really = hmac.compare_digest

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return really(left, right)

    monkeypatch.setattr(guard.hmac, "compare_digest", compare)
    tokens = Tokens(token_file)
    assert [tokens.has(token) for token in ("", "x", TOKEN, "an-older-token-of-ours")] == [False, False, True, True]
    assert compared == [(32, 32)] * 8  # digests of one length, and every token each time


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at least 16 characters"),
        (b"# nothing\n\n", "at least 16"),
        (b"short\n", "openssl rand"),
        (b"\xff" * 20, "cannot be read"),
    ],
)
def test_a_bad_file_of_tokens_is_refused(tmp_path: Path, content: bytes, message: str):
    file = tmp_path / "tokens"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        Tokens(file)
    with pytest.raises(SettingsError, match="cannot be read"):
        Tokens(tmp_path / "nix")


@pytest.mark.parametrize(("method", "path", "body"), WRITES)
def test_without_a_token_an_open_address_takes_no_changes(shop: Shop, live: Live, method: str, path: str, body: Any):
    with api_of(shop, live, host="0.0.0.0", writes=False) as api:
        answer = api.request(method, path, json=body)
        assert answer.status_code == 403 and "--token-file" in answer.json()["mend"]
        assert api.post("/v1/recommend", json={"histories": [["K0001"]]}).status_code == 200


def test_pages_of_other_sites_cannot_call_by_a_name_of_theirs(shop: Shop, live: Live):
    """DNS rebinding: the browser sends the name of the other site."""
    with api_of(shop, live, hosts=("shop.example",)) as api:
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil", "", "evil.example:8000", "[::2]"):
            answer = api.get("/v1/model", headers={"Host": host})
            assert answer.status_code == 421 and answer.json()["field"] == "Host", host
        for host in ("127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:8000", "shop.example:443"):
            assert api.get("/v1/model", headers={"Host": host}).status_code == 200, host


def test_every_answer_forbids_framing_and_sniffing(api: TestClient):
    answers = [api.get("/v1/model"), api.get("/nix"), api.post("/v1/recommend", content=b"{"), api.get("/openapi.json")]
    for answer in answers:
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        assert "server" not in answer.headers
        assert not any(name.lower().startswith("access-control") for name in answer.headers)
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == len(answers)


def test_other_origins_are_allowed_only_if_asked(shop: Shop, api: TestClient, tmp_path: Path):
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    assert api.options("/v1/recommend", headers=asked).status_code == 405
    live = Live.open(shop.run, str(tmp_path / "other.sqlite"))
    with api_of(shop, live, origins=("https://shop.example",)) as open_to_one:
        answer = open_to_one.options("/v1/recommend", headers=asked)
        assert answer.headers["Access-Control-Allow-Origin"] == "https://shop.example"
        foreign = open_to_one.options("/v1/recommend", headers=asked | {"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in foreign.headers


def test_the_policy_of_the_page_lets_only_its_own_script_run():
    policy = page_policy("<style>a{}</style><script>run()</script><script type='x'>more()</script>")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert policy.count("'sha256-") == 3 and "unsafe" not in policy and "http" not in policy
    assert "script-src 'none'" in page_policy("<p>no script</p>")


def test_a_fault_of_the_service_shows_no_trace(shop: Shop, live: Live, monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(live, "similar", fail)
    with api_of(shop, live) as api:
        answer = api.post("/v1/similar", json={"items": ["K0001"]})
        assert answer.status_code == 500 and answer.json()["type"] == "urn:linguarec:fault"
        assert "secret" not in answer.text
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert api.post("/v1/recommend", json={"histories": [["K0001"]]}).status_code == 200


def test_the_log_has_ids_only_if_asked(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    noted: list[dict[str, Any]] = []
    monkeypatch.setattr(guard, "log_request", noted.append)
    for number, log_ids in enumerate((False, True)):
        live = Live.open(shop.run, str(tmp_path / f"{number}.sqlite"))
        settings = ServiceSettings(shop.run, "", log_ids=log_ids)
        with TestClient(create_app(settings, live)[1], base_url="http://127.0.0.1") as api:
            api.get("/v1/users/secret-user/recommendations?filters=secret")
            api.get("/v1/items/secret-item")
    without, with_ids = noted[:2], noted[2:]
    assert [(one["method"], one["route"], one["status"]) for one in without] == [
        ("GET", "/v1/users/{user:path}/recommendations", 422),
        ("GET", "/v1/items/{raw_id:path}", 404),
    ]
    assert "secret" not in str(without)
    assert [one["path"] for one in with_ids] == ["/v1/users/secret-user/recommendations", "/v1/items/secret-item"]
    assert {one["problem"] for one in noted} == {"bad-filter", "unknown-item"}
    assert all(one["ms"] >= 0 and one["bytes"] > 0 and one["request"] for one in noted)
