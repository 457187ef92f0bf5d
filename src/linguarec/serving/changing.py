"""Calls that change: items, events, the run that is served."""

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.responses import Response

from linguarec.serving.bodies import JSON, NDJSON, JsonRoute, check_type, chunks, read
from linguarec.serving.changes import Removal, Upsert
from linguarec.serving.problems import Problem, of_validation
from linguarec.serving.reading import PROBLEMS
from linguarec.serving.schemas import (
    EventsAnswer,
    EventsRequest,
    Item,
    ItemsAnswer,
    ItemsRequest,
    ReloadAnswer,
    ReloadRequest,
    RemovalAnswer,
)
from linguarec.serving.service import Service, service_of
from linguarec.serving.state import Event
from linguarec.serving.upserts import present

router = APIRouter(route_class=JsonRoute, responses=PROBLEMS)
_AT_ONCE = 250  # items of a call that are encoded and stored together
_LINE_BYTES = 4 << 20
_LISTED = 100


class StreamRoute(APIRoute):
    """A call whose endpoint reads the body itself; the signature describes it in the OpenAPI document."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute`."""
        endpoint = self.endpoint

        async def handle(request: Request) -> Response:
            response: Response = await endpoint(request, None)
            return response

        return handle


streams = APIRouter(route_class=StreamRoute, responses=PROBLEMS)


class _Loose(BaseModel):
    """A body of items, each of which is checked by itself."""

    model_config = ConfigDict(extra="forbid")

    items: list[Any]


@streams.put(
    "/v1/items",
    response_model=ItemsAnswer,
    summary="Add or replace items",
    openapi_extra={
        "requestBody": {
            "content": {
                NDJSON: {
                    "schema": {"type": "string", "description": "An item a line."},
                    "example": '{"raw_id": "new-1", "title": "Digital caliper"}\n{"raw_id": "new-2", "title": "Ruler"}\n',
                }
            }
        }
    },
)
async def upsert(request: Request, body: ItemsRequest) -> Response:
    """Items are in the next answer, known by their text, or by the vector that is sent with them.

    Each item is checked by itself: bad ones are refused with the reason, the others taken; a call without any good one is
    answered by 422. A body of `application/x-ndjson` has an item a line and is taken as it arrives. If such a call breaks off,
    what came before is taken: send it again.
    """
    service = service_of(request)
    kind = check_type(request, JSON, NDJSON)
    parts = _of_json(request, service) if kind == JSON else _of_lines(request, service)
    count, upserted, sequence = 0, 0, service.live.sequence
    refused: list[dict[str, Any]] = []
    async for part in parts:
        good = [(count + place, item) for place, item in enumerate(part) if isinstance(item, Item)]
        refused += [{"row": count + place, **item} for place, item in enumerate(part) if isinstance(item, dict)]
        count += len(part)
        if good:
            done = await service.changing.ask(Upsert([item for _, item in good]))
            upserted, sequence = upserted + done.count, done.sequence
            refused += [
                {"row": good[place][0], "raw_id": good[place][1].raw_id, "reason": reason}
                for place, reason in done.refused.items()
            ]
    refused.sort(key=lambda one: int(one["row"]))
    if not upserted:
        first = refused[0]
        raise Problem(
            422,
            "no-good-item",
            f"None of the {count:,} items can be taken; the first one: {first['reason']}",
            f"items[{first['row']}]",
            "Correct the items; GET /v1/model lists the attributes of the catalogue.",
            more={"refused": refused[:_LISTED]},
        )
    return Response(
        orjson.dumps({"upserted": upserted, "refused": refused, "sequence": sequence}), media_type="application/json"
    )


Part = list["Item | dict[str, Any]"]


async def _of_json(request: Request, service: Service) -> AsyncIterator[Part]:
    """The items of a JSON body, in parts; in the place of a bad one, why."""
    limits = service.settings.limits
    content = await read(request, limits.body_bytes, limits.seconds)
    try:
        items = _Loose.model_validate_json(content).items
    except ValidationError as error:
        raise of_validation(error) from None
    if not items:
        raise Problem(422, "bad-field", "items is empty.", "items", "Give at least one item.")
    _check_number(len(items), limits.items)
    for start in range(0, len(items), _AT_ONCE):
        yield [_checked(item) for item in items[start : start + _AT_ONCE]]


async def _of_lines(request: Request, service: Service) -> AsyncIterator[Part]:
    """The items of a body with one a line, in parts, as they arrive."""
    limits = service.settings.limits
    count, waiting = 0, b""
    part: Part = []
    async for chunk in _with_end(chunks(request, limits.stream_bytes, limits.seconds)):
        *lines, waiting = (waiting + chunk).split(b"\n")
        if len(waiting) > _LINE_BYTES:
            raise Problem(413, "too-large", f"Line {count + 1} has more than {_LINE_BYTES:,} bytes.", f"items[{count}]")
        for line in lines:
            if not line.strip():
                continue
            count += 1
            _check_number(count, limits.items)
            part.append(_checked_line(line))
            if len(part) == _AT_ONCE:
                yield part
                part = []
    if part:
        yield part
    if not count:
        raise Problem(422, "bad-field", "The body has no items.", "items", "Give at least one item.")


async def _with_end(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for part in parts:
        yield part
    yield b"\n"


def _check_number(count: int, most: int) -> None:
    if count > most:
        raise Problem(413, "too-many", f"The call has more than {most:,} items.", "items", "Send several calls.")


def _checked(item: Any) -> "Item | dict[str, Any]":
    try:
        return Item.model_validate(item)
    except ValidationError as error:
        raw_id = item.get("raw_id") if isinstance(item, dict) else None
        return _refusal(error, raw_id)


def _checked_line(line: bytes) -> "Item | dict[str, Any]":
    try:
        return Item.model_validate_json(line)
    except ValidationError as error:
        return _refusal(error, None)


def _refusal(error: ValidationError, raw_id: Any) -> dict[str, Any]:
    problem = of_validation(error).content
    return {"raw_id": raw_id if isinstance(raw_id, str) else None, "reason": f"{problem['detail']} {problem['mend']}"}


@router.delete("/v1/items/{raw_id:path}", response_model=RemovalAnswer, summary="Remove an item")
async def remove(request: Request, raw_id: str) -> Response:
    """The item is not recommended any more; in histories it still counts. 404 if it is not in the catalogue."""
    done = await service_of(request).changing.ask(Removal(raw_id))
    return Response(orjson.dumps({"removed": raw_id, "sequence": done.sequence}), media_type=JSON)


@router.post("/v1/events", response_model=EventsAnswer, summary="Append interactions of users")
async def add_events(
    request: Request,
    body: EventsRequest,
    idempotency_key: Annotated[
        str | None,
        Header(description="Any text that is new for each call: a call that is repeated with it is not counted twice."),
    ] = None,
) -> Response:
    """The interactions are in the state, and count in the next recommendations for their users."""
    service = service_of(request)
    most = service.settings.limits.items
    if len(body.events) > most:
        detail = f"The call has {len(body.events):,} events; this service takes {most:,} at most."
        raise Problem(413, "too-many", detail, "events", "Send several calls.")
    key = _key(request.headers.getlist("idempotency-key"))
    events = [Event(event.user, event.raw_id, event.timestamp) for event in body.events]
    receipt = await service.call(service.live.store.add_events, events, key)
    answer = {
        "accepted": len(events),
        "repeated": receipt.repeated,
        "unknown": _unknown(service, [event.raw_id for event in events]),
    }
    return Response(orjson.dumps(answer), media_type=JSON)


def _key(values: Sequence[str]) -> str | None:
    if not values:
        return None
    if len(values) > 1 or not 1 <= len(values[0]) <= 255:
        raise Problem(
            422,
            "bad-key",
            f"Idempotency-Key is {values!r:.300}; expected one text of 1 to 255 characters.",
            "Idempotency-Key",
            "Send a random one, such as a UUID.",
        )
    return values[0]


def _unknown(service: Service, raw_ids: Sequence[str]) -> list[str]:
    distinct = list(dict.fromkeys(raw_ids))
    entries = present(service.live.served.recommender.catalogue, distinct).tolist()
    return [raw_id for raw_id, entry in zip(distinct, entries, strict=True) if entry < 0]


@router.post("/v1/reload", response_model=ReloadAnswer, summary="Serve another run, or this one opened anew")
async def reload(request: Request, body: ReloadRequest) -> Response:
    """The run is opened beside the one that is served, the live changes are applied to it, and it is exchanged.

    A run that cannot be opened leaves the old one serving. Of a run with another catalogue, items that were added since are
    added to it by their text, unless it knows them already as they are; what it cannot take is named.
    """
    service = service_of(request)
    folder = None if body.run is None else beside(service.live.served.folder, body.run)
    done = await service.call(service.reload, folder)
    applied = done.applied
    counts = {name: len(getattr(applied, name)) for name in ("added", "removed", "unchanged", "left_out")}
    answer = {
        "run": done.run,
        "items": done.items,
        "same_catalogue": done.same_catalogue,
        "applied": counts,
        "left_out": dict(list(applied.left_out.items())[:_LISTED]),
        "seconds": round(done.seconds, 3),
    }
    return Response(orjson.dumps(answer), media_type=JSON)


def beside(folder: Path, name: str) -> Path:
    """The folder of this name beside another one: a caller must not open any folder of the machine.

    Raises:
        Problem: 422, it is no such name.
    """
    if name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise Problem(
            422,
            "bad-run",
            f"{name!r} is no name of a folder.",
            "run",
            "Give the name of a run's folder beside the one that is served, without a path.",
        )
    return folder.absolute().parent / name
