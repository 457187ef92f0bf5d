"""Serve: a trained run behind an HTTP API, with a live catalogue and a page."""

from pathlib import Path
from typing import Any

from linguarec.errors import SettingsError


def serve(
    run: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> dict[str, Any]:
    """Serve a trained run over HTTP, until it is ended by Ctrl+C or SIGTERM.

    Args:
        run: run folder of a trained model
        host: address to listen on
        port: port to listen on; 0 = any that is free
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise SettingsError([f"serving needs {error.name}: pip install 'linguarec[serve]'"]) from error
    from linguarec.serving.app import create_app
    from linguarec.serving.live import Live
    from linguarec.serving.settings import ServiceSettings

    settings = ServiceSettings(run, f"{run}.state.sqlite", host=host, port=port)
    app = create_app(settings, Live.open(run))
    uvicorn.run(app, host=host, port=port, log_config=None, access_log=False)
    return {"run": str(run)}
