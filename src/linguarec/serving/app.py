"""The HTTP API: its calls, and what stands around them."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from linguarec.errors import LinguarecError
from linguarec.serving.batching import Batcher
from linguarec.serving.bodies import JsonRoute
from linguarec.serving.live import Live, check_size
from linguarec.serving.problems import Problem, of_error
from linguarec.serving.schemas import ProblemDetails, RecommendAnswer, RecommendRequest
from linguarec.serving.settings import ServiceSettings

PAGE = Path(__file__).with_name("page.html")
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ProblemDetails, "description": "A mistake of the request: `field` and `mend` say where and what."},
    "503": {"model": ProblemDetails, "description": "Not now: `Retry-After` says when."},
}
router = APIRouter(route_class=JsonRoute, responses=_PROBLEMS)


class Service:
    """What the calls of one process share."""

    def __init__(self, settings: ServiceSettings, live: Live) -> None:
        self.settings = settings
        self.live = live
        self.recommending: Batcher[RecommendRequest, bytes] = Batcher(
            live.recommend,
            size=lambda asked: asked.asked,
            window=settings.window,
            most_waiting=settings.limits.waiting,
        )


def create_app(settings: ServiceSettings, live: Live) -> FastAPI:
    """The application that serves `live`."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await app.state.service.recommending.close()

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
            HTTPException: _http_error,
        },
    )
    app.state.service = Service(settings, live)
    app.include_router(router)
    return app


def service_of(request: Request) -> Service:
    """What the calls share."""
    service: Service = request.app.state.service
    return service


@router.post("/v1/recommend", response_model=RecommendAnswer, summary="Recommend items for histories or users")
async def recommend(request: Request, body: RecommendRequest) -> Response:
    """The best items for each history, or for the stored history of each user."""
    service = service_of(request)
    limits = service.settings.limits
    check_size(body, limits.histories, limits.history_length, limits.k)
    return Response(await service.recommending.ask(body), media_type="application/json")


@router.get("/healthz", summary="Whether the process lives", response_model=dict[str, str])
async def healthz() -> Response:
    """Answers as long as the process does."""
    return Response(b'{"status":"ok"}', media_type="application/json")


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """The page."""
    return Response(PAGE.read_bytes(), media_type="text/html; charset=utf-8")


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _library_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LinguarecError)
    return of_error(error).response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return Problem(404, "no-such-path", f"There is no {request.url.path}.", mend="See /openapi.json.").response()
    if error.status_code == 405:
        detail = f"{request.url.path} does not take {request.method}."
        return Problem(
            405, "no-such-method", detail, mend=f"It takes {headers.get('allow', '')}.", headers=headers
        ).response()
    return Problem(error.status_code, "http", str(error.detail), headers=headers).response()
