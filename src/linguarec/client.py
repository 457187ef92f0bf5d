"""A typed client of the service (`linguarec serve`), synchronous and asynchronous.

    with Client("http://127.0.0.1:8000", token="...") as client:
        client.upsert([{"raw_id": "new", "title": "Digital caliper, 150 mm"}])
        best = client.recommend([["K0001", "new"]], k=5)["recommendations"][0]

Answers are dictionaries, typed as the service describes them in its OpenAPI document; a test compares both. It needs httpx
(`pip install linguarec[serve]`), and nothing of the library's models.
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self, cast
from urllib.parse import quote

try:
    import httpx
except ImportError as missing:
    raise ImportError("linguarec.client needs httpx: pip install 'linguarec[serve]'") from missing

from linguarec.client_types import (
    EventsAnswer,
    ItemsAnswer,
    ItemsView,
    ItemView,
    ModelAnswer,
    RecommendAnswer,
    ReloadAnswer,
    RemovalAnswer,
    SimilarAnswer,
)
from linguarec.errors import ServiceError

__all__ = ["AsyncClient", "Client", "ServiceError"]

Seen = bool | Literal["learned"]
Items = Iterable[Mapping[str, Any]]
_PART_BYTES = 1 << 16
_LONGEST_WAIT = 10.0  # seconds between two attempts


@dataclass(frozen=True)
class Call:
    """One call. `again`: repeating it does no harm."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    again: bool = True


def _without_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _recommend(histories: Any, users: Any, options: Mapping[str, Any]) -> Call:
    body = _without_none(
        histories=None if histories is None else [list(history) for history in histories],
        users=None if users is None else list(users),
        **options,
    )
    return Call("POST", "/v1/recommend", body)


def _for_user(user: str, k: int, exclude_seen: Seen, filters: str | None, explain: bool) -> Call:
    seen = exclude_seen if exclude_seen == "learned" else str(exclude_seen).lower()
    query = _without_none(k=k, exclude_seen=seen, filters=filters, explain=str(explain).lower())
    return Call("GET", f"/v1/users/{quote(user, safe='')}/recommendations", query=query)


def _events(events: Items, key: str | None) -> Call:
    headers = {"Idempotency-Key": key or str(uuid.uuid4())}
    return Call("POST", "/v1/events", {"events": [dict(event) for event in events]}, headers=headers)


def _item(method: str, raw_id: str) -> Call:
    return Call(method, f"/v1/items/{quote(raw_id, safe='')}", again=method == "GET")


def _lines(items: Items) -> Iterator[bytes]:
    """Items, one a line, in pieces of some size."""
    part = bytearray()
    for item in items:
        part += json.dumps(dict(item), ensure_ascii=False, allow_nan=False).encode() + b"\n"
        if len(part) >= _PART_BYTES:
            yield bytes(part)
            part.clear()
    if part:
        yield bytes(part)


async def _later(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def _answered(response: httpx.Response) -> Any:
    """The body of an answer.

    Raises:
        ServiceError: the call was refused.
    """
    try:
        content = response.json()
    except ValueError:
        content = {"detail": f"The answer is not JSON: {response.text[:200]!r}."}
        if response.is_success:
            raise ServiceError(response.status_code, content) from None
    if not response.is_success:
        raise ServiceError(response.status_code, content if isinstance(content, dict) else {})
    return content


class _Base:
    """What both clients know.

    Args:
        address: of the service, such as http://127.0.0.1:8000.
        token: for calls that need one.
        timeout: seconds that a call may take.
        retries: how often a call that does no harm twice is repeated when the service cannot be reached or is not ready (503).
    """

    def __init__(
        self, address: str, token: str | None = None, timeout: float = 30.0, retries: int = 2, transport: Any = None
    ) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._settings: dict[str, Any] = {"base_url": address, "headers": headers, "timeout": timeout}
        if transport is not None:
            self._settings["transport"] = transport
        self._retries = retries

    def _wait(self, call: Call, attempt: int, found: httpx.Response | httpx.TransportError) -> float | None:
        """Seconds until the next attempt; None = there is none."""
        unready = isinstance(found, httpx.TransportError) or found.status_code == 503
        if not unready or not call.again or attempt >= self._retries:
            return None
        after = "" if isinstance(found, httpx.TransportError) else found.headers.get("Retry-After", "")
        return min(_LONGEST_WAIT, float(after) if after.isdecimal() else 0.1 * 2.0**attempt)


def _request(call: Call) -> dict[str, Any]:
    return {
        "method": call.method,
        "url": call.path,
        "params": call.query,
        "headers": call.headers,
        **({} if call.body is None else {"json": call.body}),
    }


def _unreached(error: httpx.TransportError) -> ServiceError:
    return ServiceError(0, {"detail": f"The service cannot be reached: {error or type(error).__name__}."})


_NDJSON = {"Content-Type": "application/x-ndjson"}


class Client(_Base):
    """The synchronous client; use it as a context manager, or `close` it. Arguments: see `_Base`. Thread-safe.

    Every call raises ServiceError if it is refused.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __init__(
        self, address: str, token: str | None = None, timeout: float = 30.0, retries: int = 2, transport: Any = None
    ) -> None:
        super().__init__(address, token, timeout, retries, transport)
        self._http = httpx.Client(**self._settings)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _call(self, call: Call) -> Any:
        for attempt in range(self._retries + 1):
            try:
                found: httpx.Response | httpx.TransportError = self._http.request(**_request(call))
            except httpx.TransportError as error:
                found = error
            wait = self._wait(call, attempt, found)
            if wait is None:
                break
            time.sleep(wait)
        if isinstance(found, httpx.TransportError):
            raise _unreached(found) from found
        return _answered(found)

    def recommend(
        self,
        histories: Iterable[Sequence[str]] | None = None,
        users: Iterable[str] | None = None,
        k: int = 10,
        exclude_seen: Seen = True,
        within: Sequence[str] | None = None,
        filters: str | None = None,
        explain: bool = False,
    ) -> RecommendAnswer:
        """The best items for each history, or for the stored history of each user."""
        options = _without_none(k=k, exclude_seen=exclude_seen, within=within, filters=filters, explain=explain)
        return cast(RecommendAnswer, self._call(_recommend(histories, users, options)))

    def recommend_for_user(
        self, user: str, k: int = 10, exclude_seen: Seen = True, filters: str | None = None, explain: bool = False
    ) -> RecommendAnswer:
        """The best items after the stored history of a user; refused with 404 if there is none."""
        return cast(RecommendAnswer, self._call(_for_user(user, k, exclude_seen, filters, explain)))

    def similar(
        self,
        items: Sequence[str] | None = None,
        text: str | Mapping[str, Any] | None = None,
        k: int = 10,
        within: Sequence[str] | None = None,
        filters: str | None = None,
    ) -> SimilarAnswer:
        """The most similar items of each item, or of a text."""
        body = _without_none(items=items, text=text, k=k, within=within, filters=filters)
        return cast(SimilarAnswer, self._call(Call("POST", "/v1/similar", body)))

    def upsert(self, items: Items) -> ItemsAnswer:
        """Add or replace items: mappings with `raw_id` and attributes. They are sent as they come, and not a second time."""
        try:
            found = self._http.put("/v1/items", content=_lines(items), headers=_NDJSON)
        except httpx.TransportError as error:
            raise _unreached(error) from error
        return cast(ItemsAnswer, _answered(found))

    def remove(self, raw_id: str) -> RemovalAnswer:
        """Remove an item."""
        return cast(RemovalAnswer, self._call(_item("DELETE", raw_id)))

    def item(self, raw_id: str) -> ItemView:
        """The item with this id."""
        return cast(ItemView, self._call(_item("GET", raw_id)))

    def search(self, query: str = "", limit: int = 20, offset: int = 0) -> ItemsView:
        """Items whose title or id has every word."""
        return cast(
            ItemsView, self._call(Call("GET", "/v1/items", query={"q": query, "limit": limit, "offset": offset}))
        )

    def add_events(self, events: Items, key: str | None = None) -> EventsAnswer:
        """Append interactions: mappings with `user`, `raw_id` and optionally `timestamp`. A repeated attempt is not counted
        twice; with a `key` of the caller neither is a repeated call."""
        return cast(EventsAnswer, self._call(_events(events, key)))

    def model(self) -> ModelAnswer:
        """What is served."""
        return cast(ModelAnswer, self._call(Call("GET", "/v1/model")))

    def reload(self, run: str | None = None) -> ReloadAnswer:
        """Serve another run, or this one opened anew."""
        return cast(ReloadAnswer, self._call(Call("POST", "/v1/reload", _without_none(run=run), again=False)))


class AsyncClient(_Base):
    """The asynchronous client: the calls of `Client`, to be awaited."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __init__(
        self, address: str, token: str | None = None, timeout: float = 30.0, retries: int = 2, transport: Any = None
    ) -> None:
        super().__init__(address, token, timeout, retries, transport)
        self._http = httpx.AsyncClient(**self._settings)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _call(self, call: Call) -> Any:
        for attempt in range(self._retries + 1):
            try:
                found: httpx.Response | httpx.TransportError = await self._http.request(**_request(call))
            except httpx.TransportError as error:
                found = error
            wait = self._wait(call, attempt, found)
            if wait is None:
                break
            await asyncio.sleep(wait)
        if isinstance(found, httpx.TransportError):
            raise _unreached(found) from found
        return _answered(found)

    async def recommend(
        self,
        histories: Iterable[Sequence[str]] | None = None,
        users: Iterable[str] | None = None,
        k: int = 10,
        exclude_seen: Seen = True,
        within: Sequence[str] | None = None,
        filters: str | None = None,
        explain: bool = False,
    ) -> RecommendAnswer:
        """See `Client`."""
        options = _without_none(k=k, exclude_seen=exclude_seen, within=within, filters=filters, explain=explain)
        return cast(RecommendAnswer, await self._call(_recommend(histories, users, options)))

    async def recommend_for_user(
        self, user: str, k: int = 10, exclude_seen: Seen = True, filters: str | None = None, explain: bool = False
    ) -> RecommendAnswer:
        """See `Client`."""
        return cast(RecommendAnswer, await self._call(_for_user(user, k, exclude_seen, filters, explain)))

    async def similar(
        self,
        items: Sequence[str] | None = None,
        text: str | Mapping[str, Any] | None = None,
        k: int = 10,
        within: Sequence[str] | None = None,
        filters: str | None = None,
    ) -> SimilarAnswer:
        """See `Client`."""
        body = _without_none(items=items, text=text, k=k, within=within, filters=filters)
        return cast(SimilarAnswer, await self._call(Call("POST", "/v1/similar", body)))

    async def upsert(self, items: Items) -> ItemsAnswer:
        """See `Client`."""
        try:
            found = await self._http.put("/v1/items", content=_later(_lines(items)), headers=_NDJSON)
        except httpx.TransportError as error:
            raise _unreached(error) from error
        return cast(ItemsAnswer, _answered(found))

    async def remove(self, raw_id: str) -> RemovalAnswer:
        """See `Client`."""
        return cast(RemovalAnswer, await self._call(_item("DELETE", raw_id)))

    async def item(self, raw_id: str) -> ItemView:
        """See `Client`."""
        return cast(ItemView, await self._call(_item("GET", raw_id)))

    async def search(self, query: str = "", limit: int = 20, offset: int = 0) -> ItemsView:
        """See `Client`."""
        found = await self._call(Call("GET", "/v1/items", query={"q": query, "limit": limit, "offset": offset}))
        return cast(ItemsView, found)

    async def add_events(self, events: Items, key: str | None = None) -> EventsAnswer:
        """See `Client`."""
        return cast(EventsAnswer, await self._call(_events(events, key)))

    async def model(self) -> ModelAnswer:
        """See `Client`."""
        return cast(ModelAnswer, await self._call(Call("GET", "/v1/model")))

    async def reload(self, run: str | None = None) -> ReloadAnswer:
        """See `Client`."""
        return cast(ReloadAnswer, await self._call(Call("POST", "/v1/reload", _without_none(run=run), again=False)))
