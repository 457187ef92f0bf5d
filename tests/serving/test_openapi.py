"""The OpenAPI document, and requests that Schemathesis makes of it: good ones and bad ones, the same in every run."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from service import Service, Shop
from starlette.testclient import TestClient

EXAMPLES = 25
CALLS = [
    ("POST", "/v1/recommend"),
    ("GET", "/v1/users/{user}/recommendations"),
    ("POST", "/v1/similar"),
    ("GET", "/v1/items"),
    ("PUT", "/v1/items"),
    ("GET", "/v1/items/{raw_id}"),
    ("DELETE", "/v1/items/{raw_id}"),
    ("POST", "/v1/events"),
    ("POST", "/v1/reload"),
    ("GET", "/v1/model"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
]
NOTHING_TO_ASK = ("/v1/model", "/healthz", "/readyz", "/metrics")
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def running(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    state = tmp_path_factory.mktemp("openapi") / "state.sqlite"
    with Service(shop.run, state) as made:
        made.client.put("/v1/items", json={"items": [{"raw_id": "new", "title": "Walnut cake stand"}]})
        made.client.post("/v1/events", json={"events": [{"user": "u", "raw_id": shop.ids[0]}]})
        yield made


@pytest.fixture(scope="module")
def document(running: Service) -> Any:
    return schemathesis.openapi.from_url(f"{running.client.base_url}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(("method", "path"), CALLS)
def test_no_request_of_the_document_makes_the_service_fail(document: Any, method: str, path: str, mode: GenerationMode):
    operation = document[path][method]
    if mode is GenerationMode.NEGATIVE and path in NOTHING_TO_ASK:
        pytest.skip("it has no parameters and no body")

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS, timeout=60)

    check()


def test_the_calls_are_those_of_the_document(api: TestClient):
    paths = api.get("/openapi.json").json()["paths"]
    assert {(method.upper(), path) for path, calls in paths.items() for method in calls} == set(CALLS)


def test_the_service_still_answers(running: Service, shop: Shop):
    answer = running.client.post("/v1/recommend", json={"histories": [shop.ids[:3]], "k": 5})
    assert len(answer.json()["recommendations"][0]) == 5
    assert not [line for line in running.lines() if line["level"] == "error" and "reload failed" not in line["message"]]


def test_every_call_is_described_with_an_example(api: TestClient):
    document = api.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            assert call["summary"] and call["description"], (method, path)
            assert {"200", "4XX", "503"} <= set(call["responses"])
            for content in call.get("requestBody", {}).get("content", {}).values():
                body = content["schema"]
                described = schemas[body["$ref"].rpartition("/")[2]] if "$ref" in body else body
                assert described.get("examples") or "example" in content, (method, path)


def test_the_examples_of_the_document_are_taken(api: TestClient, shop: Shop):
    schemas = api.get("/openapi.json").json()["components"]["schemas"]
    for call, name in (
        (("POST", "/v1/recommend"), "RecommendRequest"),
        (("POST", "/v1/similar"), "SimilarRequest"),
        (("POST", "/v1/events"), "EventsRequest"),
        (("PUT", "/v1/items"), "ItemsRequest"),
        (("POST", "/v1/reload"), "ReloadRequest"),
    ):
        for example in schemas[name]["examples"]:
            answer = api.request(*call, json=example)
            assert answer.status_code == 200, (name, example, answer.text)
