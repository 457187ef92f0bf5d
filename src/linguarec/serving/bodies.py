"""Reads the body of a request: bounded in size and time, and checked by its schema in one pass."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from linguarec.serving.problems import Problem, of_validation
from linguarec.serving.settings import Limits

JSON, NDJSON = "application/json", "application/x-ndjson"
_DISCARDED = 256 << 20  # bytes of a body that is too large are read and thrown away, so that the client gets the answer


class JsonRoute(APIRoute):
    """A call whose endpoint takes the request, or the request and the body.

    FastAPI describes it in the OpenAPI document by its signature. The body is read by pydantic itself, which parses and
    checks JSON in one pass, knows no NaN and bounds its depth; FastAPI would parse it by the standard library before that.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute`."""
        if self.body_field is None:
            return super().get_route_handler()
        endpoint = self.endpoint
        body: Any = self.body_field.field_info.annotation
        adapter: TypeAdapter[Any] = TypeAdapter(body)

        async def handle(request: Request) -> Response:
            check_type(request, JSON)
            limits: Limits = request.app.state.service.settings.limits
            content = await read(request, limits.body_bytes, limits.seconds)
            try:
                body = adapter.validate_json(content)
            except ValidationError as error:
                raise of_validation(error) from None
            response: Response = await endpoint(request, body)
            return response

        return handle


def check_type(request: Request, *types: str) -> str:
    """The media type of the body.

    A page of another site can send no `application/json` without asking, which nothing here allows it.

    Raises:
        Problem: 415, it is not one of `types`.
    """
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if kind not in types:
        raise Problem(
            415,
            "media-type",
            f"The body is {given or 'of no type'}; expected {' or '.join(types)}.",
            "Content-Type",
            f"Send the header `Content-Type: {types[0]}`.",
        )
    return kind


async def read(request: Request, most: int, seconds: float) -> bytes:
    """The whole body.

    Raises:
        Problem: 413, it is larger than `most` bytes; 408, it took longer than `seconds`.
    """
    first = await _received(request, seconds)
    if not first.get("more_body", False) and len(first["body"]) <= most:
        return bytes(first["body"])  # as nearly always
    try:
        async with asyncio.timeout(seconds):
            return b"".join([part async for part in chunks(request, most, seconds, first)])
    except TimeoutError:
        raise _slow(seconds) from None


async def _received(request: Request, seconds: float) -> Any:
    """The next piece of the body.

    Raises:
        Problem: it took too long, or the client is gone.
    """
    try:
        async with asyncio.timeout(seconds):
            message = await request.receive()
    except TimeoutError:
        raise _slow(seconds) from None
    if message["type"] == "http.disconnect":
        raise Problem(400, "cut-body", "The connection was closed before the body was complete.")
    return {"body": b"", **message}


def _slow(seconds: float) -> Problem:
    return Problem(
        408,
        "slow-body",
        f"The body did not arrive within {seconds:g} seconds.",
        mend="Send it faster, or in several calls.",
        headers={"Connection": "close"},
    )


async def chunks(request: Request, most: int, seconds: float, first: Any = None) -> AsyncIterator[bytes]:
    """The body in the pieces in which it arrives. Each may take `seconds`.

    Args:
        request: whose body is read.
        most: bytes that it may have.
        seconds: that each piece may take.
        first: a piece that was read already.

    Raises:
        Problem: as of `read`.
    """
    total, declared = 0, request.headers.get("content-length", "0")
    too_large = declared.isdecimal() and int(declared) > most
    message = first
    more = first is None or first.get("more_body", False)
    while not too_large:
        if message is None:
            message = await _received(request, seconds)
        more = message.get("more_body", False)
        total += len(message["body"])
        too_large = total > most
        if message["body"] and not too_large:
            yield message["body"]
        if not more:
            break
        message = None
    if not too_large:
        return
    if more:
        await _discard(request, seconds)
    raise Problem(
        413,
        "too-large",
        f"The body has more than {most:,} bytes.",
        mend="Send several calls, or raise the limit of the service (--limits.body_mb).",
        headers={"Connection": "close"},
    )


async def _discard(request: Request, seconds: float) -> None:
    """Read what comes and throw it away: a client that is still sending does not read an answer."""
    total, more = 0, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while more and total < _DISCARDED:
                message = await request.receive()
                total += len(message.get("body", b""))
                more = message.get("more_body", False)
