"""The HTTP API as an application: its calls, and what stands around them."""

import contextlib
import functools
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import Response

from linguarec.errors import LinguarecError, quoted
from linguarec.serving import changing, reading
from linguarec.serving.guard import Guard, page_policy
from linguarec.serving.live import Live
from linguarec.serving.problems import MEDIA_TYPE, Problem, of_error
from linguarec.serving.service import Service, Siblings
from linguarec.serving.settings import ServiceSettings

PAGE = Path(__file__).with_name("page.html")
log = logging.getLogger(__name__)


def create_app(settings: ServiceSettings, live: Live, siblings: Siblings | None = None) -> tuple[FastAPI, Guard]:
    """The application that serves `live`, and the guard around it, which is what a server runs.

    Raises:
        SettingsError: the file of tokens cannot be read.
    """
    service = Service(settings, live, siblings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="linguarec",
        summary="Recommendations of a trained run, with a live catalogue.",
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        exception_handlers={
            Problem: _problem,
            LinguarecError: _library_error,
            RequestValidationError: _bad_parameter,
            HTTPException: _http_error,
            Exception: _fault,
        },
    )
    app.state.service = service
    for router in (reading.router, changing.streams, changing.router):
        app.include_router(router)
    if PAGE.exists():
        _add_page(app, PAGE.read_text(encoding="utf-8"))
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.openapi = functools.partial(_document, app)  # type: ignore[method-assign]
    service.guard = Guard(app, settings, service.metrics)
    return app, service.guard


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document; FastAPI describes all answers as plain JSON, problems are of their own media type."""
    if app.openapi_schema is None:
        app.openapi_schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        for calls in app.openapi_schema["paths"].values():
            for call in calls.values():
                for status in reading.PROBLEMS:
                    content = call["responses"][str(status)]["content"]
                    content[MEDIA_TYPE] = content.pop("application/json")
    return app.openapi_schema


def _add_page(app: FastAPI, content: str) -> None:
    headers = {"Content-Security-Policy": page_policy(content)}

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(content, headers=headers, media_type="text/html; charset=utf-8")


def _answer(request: Request, problem: Problem) -> Response:
    request.scope["problem"] = problem.kind
    return problem.response()


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _answer(request, error)


async def _library_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LinguarecError)
    return _answer(request, of_error(error))


async def _bad_parameter(request: Request, error: Exception) -> Response:
    """A parameter of the path, the query or a header that does not fit."""
    assert isinstance(error, RequestValidationError)
    one: dict[str, Any] = error.errors()[0]
    field = str(one["loc"][-1])
    detail = f"{field}: found {quoted(one.get('input'))}: {one['msg'][:1].lower()}{one['msg'][1:]}."
    return _answer(
        request, Problem(422, "bad-parameter", detail, field, "See /openapi.json for the values it may have.")
    )


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    path = request.url.path
    if error.status_code == 404:
        return _answer(request, Problem(404, "no-such-path", f"There is no {quoted(path)}.", mend="See /openapi.json."))
    if error.status_code == 405:
        detail = f"{quoted(path)} does not take {request.method}."
        mend = f"It takes {headers.get('Allow', headers.get('allow', 'other methods'))}."
        return _answer(request, Problem(405, "no-such-method", detail, mend=mend, headers=headers))
    return _answer(request, Problem(error.status_code, "http", str(error.detail), headers=headers))


async def _fault(request: Request, error: Exception) -> Response:
    """A fault of the service: the trace is in the log, never in the answer."""
    return _answer(request, Problem(500, "fault", "The service has a fault; its log says which.", mend="Report it."))
