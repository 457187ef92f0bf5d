"""Calls that read: recommendations, similar items, the catalogue, what is served."""

import platform
import time
from importlib.metadata import version
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from fastapi import APIRouter, Query, Request
from pydantic import ValidationError
from starlette.responses import Response

from linguarec.errors import LinguarecError
from linguarec.serving.bodies import JsonRoute
from linguarec.serving.live import Live
from linguarec.serving.lookup import Lookup, views
from linguarec.serving.metrics import CONTENT_TYPE_LATEST
from linguarec.serving.problems import Problem, of_validation, unknown_item
from linguarec.serving.schemas import (
    ID_CHARACTERS,
    ItemsView,
    ItemView,
    ModelAnswer,
    ProblemDetails,
    RecommendAnswer,
    RecommendRequest,
    SimilarAnswer,
    SimilarRequest,
)
from linguarec.serving.service import service_of
from linguarec.serving.settings import Limits

JSON = "application/json"
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ProblemDetails, "description": "A mistake of the request: `field` and `mend` say where and what."},
    "503": {"model": ProblemDetails, "description": "Not now: `Retry-After` says when."},
}
router = APIRouter(route_class=JsonRoute, responses=PROBLEMS)
_LISTED_LEFT_OUT = 100
_MOST_EXPLAINED = 2_000  # each is scored once for each item of its history


@router.post("/v1/recommend", response_model=RecommendAnswer, summary="Recommend items for histories or users")
async def recommend(request: Request, body: RecommendRequest) -> Response:
    """The best items for each history, or for the stored history of each user; up to hundreds in one call.

    Ids that are not in the catalogue are left out of histories and named under `unknown`; a history without a known id (an
    empty one, too), or a user without a history, gets an empty list.
    """
    service = service_of(request)
    check_size(body, service.settings.limits)
    return Response((await service.recommending.ask(body)).content, media_type=JSON)


@router.get(
    "/v1/users/{user:path}/recommendations", response_model=RecommendAnswer, summary="Recommend items for one user"
)
async def recommend_for_user(
    request: Request,
    user: str,
    k: int = 10,
    exclude_seen: Literal["true", "false", "learned"] = "true",
    filters: str | None = None,
    explain: bool = False,
) -> Response:
    """The best items after the stored history of a user; 404 if there is none, or none of its items is in the catalogue."""
    service = service_of(request)
    seen = exclude_seen if exclude_seen == "learned" else exclude_seen == "true"
    try:
        body = RecommendRequest(users=[user], k=k, exclude_seen=seen, filters=filters, explain=explain)
    except ValidationError as error:
        raise of_validation(error) from None
    check_size(body, service.settings.limits)
    answer = await service.recommending.ask(body)
    if not answer.ranked:
        raise Problem(
            404,
            "no-history",
            f"The user {user[:100]!r} has no stored history with an item of the catalogue.",
            "user",
            "Add interactions: POST /v1/events; or send a history: POST /v1/recommend.",
        )
    return Response(answer.content, media_type=JSON)


@router.post("/v1/similar", response_model=SimilarAnswer, summary="Find similar items")
async def similar(request: Request, body: SimilarRequest) -> Response:
    """The nearest items of each item, without itself, or of a text. 404 if none of the items is in the catalogue."""
    service = service_of(request)
    limits = service.settings.limits
    _check_count("items", len(body.items or ()), limits.histories, "Send several calls.")
    _check_count("k", body.k, limits.k, "Ask for fewer.")
    _check_count("within", len(body.within or ()), limits.history_length, "Use filters for many candidates.")
    return Response((await service.comparing.ask(body)).content, media_type=JSON)


@router.get("/v1/items", response_model=ItemsView, summary="Search the catalogue")
async def search(
    request: Request,
    q: Annotated[str, Query(max_length=1_000, description="Words of titles or ids; none: all items.")] = "",
    limit: Annotated[int, Query(ge=1, le=1_000)] = 20,
    offset: Annotated[int, Query(ge=0, le=1 << 53)] = 0,
) -> Response:
    """Items whose title or id has every word: the one with this id first, then those whose title begins so."""
    service = service_of(request)
    return Response(
        await service.call(_found, service.live, service.lookup_of_served(), q, limit, offset), media_type=JSON
    )


def _found(live: Live, lookup: Lookup, query: str, limit: int, offset: int) -> bytes:
    catalogue = live.served.recommender.catalogue
    entries = lookup.entries(catalogue, query)
    shown = entries[offset : offset + limit]
    return orjson.dumps({"items": list(views(catalogue, shown)), "total": len(entries)})


@router.get("/v1/items/{raw_id:path}", response_model=ItemView, summary="Look an item up")
async def item(request: Request, raw_id: str) -> Response:
    """The item with this id."""
    service = service_of(request)
    catalogue = service.live.served.recommender.catalogue
    entry = int(catalogue.find([raw_id])[0])
    if entry < 0 or catalogue.removed[entry]:
        raise unknown_item(raw_id[:ID_CHARACTERS])
    found = await service.call(lambda: next(views(catalogue, np.array([entry]))))
    return Response(orjson.dumps(found), media_type=JSON)


@router.get("/v1/model", response_model=ModelAnswer, summary="What is served")
async def model(request: Request) -> Response:
    """The run, its metrics, its catalogue, the counts of the state, versions."""
    service = service_of(request)
    return Response(await service.call(_described, service.live, service.loaded), media_type=JSON)


def _described(live: Live, loaded: float) -> bytes:
    served, sequence = live.served, live.sequence
    recommender = served.recommender
    family, source = recommender.description.family, recommender.snapshot.source
    try:
        counts: dict[str, int] | None = live.store.counts()
    except LinguarecError:
        counts = None
    left_out = dict(list(live.left_out.items())[:_LISTED_LEFT_OUT])
    return orjson.dumps(
        {
            "run": served.run,
            "model": family.name,
            "description": family.summary,
            "sequence": sequence,
            "items": served.present,
            "trained_items": served.own,
            "attributes": recommender.catalogue.attributes,
            "number_attributes": list(recommender.catalogue.numbers),
            "takes_new_items": family.ranks_new,
            "approximate": served.approximate,
            "encoder": source.encoder_id,
            "learned_repeats": recommender.repeats is not None,
            "metrics": served.metrics,
            "state": counts,
            "left_out": left_out,
            "versions": {
                "linguarec": version("linguarec"),
                "torch": version("torch"),
                "python": platform.python_version(),
            },
            "loaded": loaded,
        }
    )


@router.get("/healthz", response_model=dict[str, str], summary="Whether the process lives")
async def healthz() -> Response:
    """Answers as long as the process does."""
    return Response(b'{"status":"ok"}', media_type=JSON)


@router.get("/readyz", response_model=dict[str, str], summary="Whether requests should be sent here")
async def readyz(request: Request) -> Response:
    """200 while requests are answered, 503 as soon as the service stops.

    Without its state the service still recommends, so it stays ready: `state` and the metrics say so.
    """
    service = service_of(request)
    behind = time.monotonic() - service.live.followed
    state = "ok" if behind < 10 * service.settings.poll + 5 else f"not read for {behind:.0f} seconds"
    return Response(orjson.dumps({"status": "ready", "state": state}), media_type=JSON)


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
async def metrics(request: Request) -> Response:
    """Latency, batch sizes, catalogue, lag of the state, errors by kind."""
    service = service_of(request)
    return Response(await service.call(service.metrics.text), media_type=CONTENT_TYPE_LATEST)


def check_size(body: RecommendRequest, limits: Limits) -> None:
    """Refuse a request that exceeds the limits of the service.

    Raises:
        Problem: 422, naming the field.
    """
    _check_count(
        "users" if body.histories is None else "histories", body.asked, limits.histories, "Send several calls."
    )
    _check_count("k", body.k, limits.k, "Ask for fewer.")
    _check_count("within", len(body.within or ()), limits.history_length, "Use filters for many candidates.")
    if body.explain and body.asked * body.k > _MOST_EXPLAINED:
        raise Problem(
            422,
            "too-many",
            f"explain is asked for {body.asked * body.k:,} items; this service explains {_MOST_EXPLAINED:,} in one call.",
            "explain",
            "Ask for fewer histories, or a smaller k.",
        )
    for number, history in enumerate(body.histories or ()):
        if len(history) > limits.history_length:
            mend = "Send the last ones: the model reads no more than its last items."
            _check_count(f"histories[{number}]", len(history), limits.history_length, mend)


def _check_count(field: str, count: int, most: int, mend: str) -> None:
    if count > most:
        found = f"{field} is {count:,}" if field == "k" else f"{field} has {count:,} entries"
        raise Problem(422, "too-many", f"{found}; this service takes {most:,} at most.", field, mend)
