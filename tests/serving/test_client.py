"""The client against the OpenAPI document and against the application."""

import asyncio
import inspect
import re
import typing
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from service import Shop
from starlette.testclient import TestClient

from linguarec import client_types as module
from linguarec.client import AsyncClient, Client, ServiceError

# Method of the client -> arguments, and the call that it must make.
CALLS: dict[str, tuple[dict[str, Any], str, str]] = {
    "recommend": ({"histories": [["a"]], "within": ["b"], "filters": "x == 1"}, "POST", "/v1/recommend"),
    "recommend_for_user": ({"user": "u/1 ?", "filters": "x"}, "GET", "/v1/users/{user}/recommendations"),
    "similar": ({"text": {"title": "t"}, "within": ["b"], "filters": "x"}, "POST", "/v1/similar"),
    "upsert": ({"items": [{"raw_id": "a", "title": "t"}]}, "PUT", "/v1/items"),
    "remove": ({"raw_id": "a/b#c?"}, "DELETE", "/v1/items/{raw_id}"),
    "item": ({"raw_id": "a/b#c?"}, "GET", "/v1/items/{raw_id}"),
    "search": ({"query": "a b"}, "GET", "/v1/items"),
    "add_events": ({"events": [{"user": "u", "raw_id": "a"}]}, "POST", "/v1/events"),
    "model": ({}, "GET", "/v1/model"),
    "reload": ({"run": "next"}, "POST", "/v1/reload"),
}
NOT_FOR_CLIENTS = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics")}


@pytest.fixture
def document(api: TestClient) -> dict[str, Any]:
    return api.get("/openapi.json").json()


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


class Recorder:
    """Notes the requests that a client makes, and answers them."""

    def __init__(self, *answers: int) -> None:
        self.requests: list[httpx.Request] = []
        self.answers = iter(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        return httpx.Response(next(self.answers, 200), json={"detail": "No."})

    async def later(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(request)
        return httpx.Response(next(self.answers, 200), json={"detail": "No."})


def requests_of(name: str, arguments: dict[str, Any]) -> list[httpx.Request]:
    """The request of the synchronous client, and of the asynchronous one."""
    recorder = Recorder()
    with Client("http://service", transport=httpx.MockTransport(recorder)) as client:
        getattr(client, name)(**arguments)

    async def call() -> None:
        async with AsyncClient("http://service", transport=httpx.MockTransport(recorder.later)) as client:
            await getattr(client, name)(**arguments)

    asyncio.run(call())
    return recorder.requests


def test_every_call_of_the_document_has_a_method(document: dict[str, Any]):
    documented = {(method.upper(), path) for path, calls in document["paths"].items() for method in calls}
    assert {(method, path) for _, method, path in CALLS.values()} == documented - NOT_FOR_CLIENTS
    for kind in (Client, AsyncClient):
        assert {name for name in vars(kind) if not name.startswith("_")} - {"close"} == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_what_a_method_sends_is_what_the_document_describes(document: dict[str, Any], name: str):
    arguments, method, path = CALLS[name]
    for request in requests_of(name, arguments):
        pattern = re.sub(r"\\{\w+\\}", "([^/]+)", re.escape(path))
        raw = request.url.raw_path.decode().partition("?")[0]
        assert request.method == method and re.fullmatch(pattern, raw), raw
        operation = document["paths"][path][method.lower()]
        parameters = {one["name"].lower() for one in operation.get("parameters", [])}
        assert set(request.url.params) <= parameters
        if "idempotency-key" in request.headers:
            assert "idempotency-key" in parameters
        if "requestBody" in operation:
            content = operation["requestBody"]["content"]
            kind = request.headers["content-type"]
            assert kind in content
            if kind == "application/json":
                import json

                fields = resolved(document, content[kind]["schema"])["properties"]
                assert set(json.loads(request.content)) <= set(fields)


@pytest.mark.parametrize("name", CALLS)
def test_what_a_method_returns_is_what_the_document_describes(document: dict[str, Any], name: str):
    _, method, path = CALLS[name]
    content = document["paths"][path][method.lower()]["responses"]["200"]["content"]["application/json"]
    returned = typing.get_type_hints(getattr(Client, name))["return"]
    assert typing.get_type_hints(getattr(AsyncClient, name))["return"] is returned
    assert content["schema"]["$ref"].endswith(f"/{returned.__name__}")
    for kind in (returned, module.Recommendation, module.Reason, module.Version, module.Refused, module.ItemView):
        described = document["components"]["schemas"][kind.__name__]
        assert set(typing.get_type_hints(kind)) == set(described["properties"]), kind
        assert kind.__required_keys__ <= set(described.get("required", described["properties"])), kind


@pytest.mark.parametrize("name", CALLS)
def test_both_clients_have_the_same_parameters(name: str):
    assert inspect.signature(getattr(Client, name)) == inspect.signature(getattr(AsyncClient, name))


@pytest.fixture
def client(api: TestClient) -> Iterator[Client]:
    """A client whose requests go to the application in this process."""

    def handle(request: httpx.Request) -> httpx.Response:
        url = request.url.raw_path.decode()
        headers = dict(request.headers) | {"host": "127.0.0.1"}
        found = api.request(request.method, url, content=request.read(), headers=headers)
        return httpx.Response(found.status_code, headers={"content-type": "application/json"}, content=found.content)

    with Client("http://service", transport=httpx.MockTransport(handle)) as made:
        yield made


def test_a_whole_conversation(client: Client, shop: Shop):
    added = client.upsert({"raw_id": f"new {row}/ü", "title": f"Walnut cake stand {row}"} for row in range(3))
    assert added == {"upserted": 3, "refused": [], "sequence": 3}
    assert client.item("new 1/ü")["title"] == "Walnut cake stand 1"
    assert [one["raw_id"] for one in client.search("cake stand 2")["items"]] == ["new 2/ü"]
    assert client.add_events([{"user": "a/b", "raw_id": "new 1/ü"}])["accepted"] == 1
    found = client.recommend_for_user("a/b", k=3, filters="price is missing")
    assert {one["raw_id"] for one in found["recommendations"][0]} == {"new 0/ü", "new 2/ü"}
    assert client.recommend(users=["a/b"], k=3, filters="price is missing") == found
    assert client.similar(items=["new 0/ü"], k=1)["recommendations"][0][0]["raw_id"].startswith("new ")
    assert client.remove("new 1/ü")["removed"] == "new 1/ü"
    assert client.model()["items"] == len(shop.ids) + 2
    assert client.reload()["applied"] == {"added": 2, "removed": 0, "unchanged": 1, "left_out": 0}
    with pytest.raises(ServiceError, match=r"404: 'nix' is not in the catalogue.*PUT /v1/items") as caught:
        client.item("nix")
    assert caught.value.status == 404 and caught.value.problem["field"] == "raw_id"


def test_a_call_is_repeated_while_the_service_is_not_ready_with_the_same_key():
    recorder = Recorder(503, 503, 200)
    with Client("http://service", transport=httpx.MockTransport(recorder)) as client:
        client.add_events([{"user": "u", "raw_id": "a"}])
    assert len(recorder.requests) == 3
    assert len({request.headers["idempotency-key"] for request in recorder.requests}) == 1


def test_a_removal_and_a_reload_are_not_repeated():
    recorder = Recorder(503, 503)
    with Client("http://service", transport=httpx.MockTransport(recorder)) as client:
        for call in (lambda: client.remove("a"), client.reload):
            with pytest.raises(ServiceError, match="503"):
                call()
    assert len(recorder.requests) == 2


def test_a_service_that_is_not_there_is_an_error_of_the_library():
    with Client("http://127.0.0.1:9", retries=0) as client, pytest.raises(ServiceError, match="cannot be reached"):
        client.model()
