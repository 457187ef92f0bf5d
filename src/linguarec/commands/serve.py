"""Serve: a trained run behind an HTTP API, with a live catalogue and a page."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from linguarec.errors import SettingsError

if TYPE_CHECKING:
    from linguarec.serving.settings import Limits


def serve(
    run: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    state: str | None = None,
    users: Path | None = None,
    approximate: bool = False,
    workers: int = 1,
    token_file: Path | None = None,
    protect_reads: bool = False,
    open_writes: bool = False,
    allow_host: list[str] | None = None,
    cors_origin: list[str] | None = None,
    log_ids: bool = False,
    log_requests: bool = True,
    batch_window_ms: float = 1.0,
    batch_size: int = 64,
    grace_seconds: float = 30.0,
    limits: "Limits | None" = None,
) -> dict[str, Any]:
    """Serve a trained run over HTTP: an API and a page, until Ctrl+C or SIGTERM ends it.

    Items, removals and interactions that come after the training are kept in a state of their own; the run is never written
    to. SIGHUP, or POST /v1/reload, opens the run anew.

    Args:
        run: run folder of a trained model
        host: address to listen on; by default only this machine can connect
        port: port to listen on; 0 = any that is free
        state: where live changes are kept, a file of SQLite or postgresql://USER@HOST/DATABASE; RUN.state.sqlite by default
        users: prepared folder whose histories become those of its users, once
        approximate: search an index of the items, RUN.index.npz, instead of scoring all; for more than some 100,000 items
        workers: processes that answer; they share the state
        token_file: file with a token a line, that changes need
        protect_reads: reading needs a token too
        open_writes: allow changes without a token on an address that other machines can reach
        allow_host: further names that this service is called by
        cors_origin: origins whose pages may call this service, such as https://shop.example
        log_ids: log paths and queries, which name items and users, and addresses of clients
        log_requests: log a line for each request
        batch_window_ms: milliseconds that a request waits for others to be ranked with it
        batch_size: histories that are ranked together at most
        grace_seconds: seconds that requests may still run when the service is ended
        limits: limits of requests
    """
    try:
        import fastapi  # noqa: F401
        import httptools  # noqa: F401
        import orjson  # noqa: F401
        import prometheus_client  # noqa: F401
        import sqlalchemy  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            [f"serving needs packages that are not installed, as {error.name}: pip install 'linguarec[serve]'"]
        ) from error
    from linguarec.serving.guard import Tokens
    from linguarec.serving.listening import bound
    from linguarec.serving.settings import LOOPBACK, Limits, ServiceSettings

    problems = []
    if workers < 1:
        problems.append(f"--workers is {workers}; expected at least 1")
    if not 0 <= port <= 65_535:
        problems.append(f"--port is {port}; expected 0 to 65535")
    if batch_size < 1:
        problems.append(f"--batch-size is {batch_size}; expected at least 1")
    if not 0 <= batch_window_ms <= 1_000:
        problems.append(f"--batch-window-ms is {batch_window_ms}; expected 0 to 1000")
    if not 0 <= grace_seconds <= 3_600:
        problems.append(f"--grace-seconds is {grace_seconds}; expected 0 to 3600")
    if protect_reads and token_file is None:
        problems.append("--protect-reads needs --token-file")
    if problems:
        raise SettingsError(problems)
    settings = ServiceSettings(
        folder=run,
        state=f"{run.absolute()}.state.sqlite" if state is None else state,
        users=users,
        approximate=approximate,
        host=host,
        port=port,
        token_file=token_file,
        protect_reads=protect_reads,
        writes=host in LOOPBACK or token_file is not None or open_writes,
        hosts=tuple(allow_host or ()),
        origins=tuple(cors_origin or ()),
        log_ids=log_ids,
        log_requests=log_requests,
        window=batch_window_ms / 1_000,
        batch=batch_size,
        grace=grace_seconds,
        limits=Limits() if limits is None else limits,
    )
    result = {"run": str(run), "state": settings.state.rpartition("@")[2]}
    if token_file is not None:
        Tokens(token_file)
    with bound(host, port) as listening:
        # What is heavy is loaded once the settings are known to be good.
        from linguarec.runs.tables import plain_console
        from linguarec.serving.live import Live
        from linguarec.serving.logs import log_as_json
        from linguarec.serving.server import run as run_server
        from linguarec.serving.server import run_workers

        live = Live.open(run, settings.state, users, approximate) if workers == 1 else None
        address = "http://{}:{}".format(f"[{host}]" if ":" in host else host, listening.getsockname()[1])
        console = plain_console()
        console.print(f"{run} is served at {address} (Ctrl+C ends it)", soft_wrap=True)
        if not settings.writes:
            console.print("Changes are refused: other machines can reach this address, and there is no --token-file.")
        log_as_json()
        if live is None:
            run_workers(settings, workers, listening)
        else:
            run_server(settings, live, listening)
    return result
