"""Logs of the service: one JSON object a line, on standard error."""

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import orjson

log = logging.getLogger("linguarec.requests")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, and the fields that it was given."""

    def format(self, record: logging.LogRecord) -> str:
        """The line. Control characters are escaped, as JSON does."""
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        content |= getattr(record, "fields", {})
        if record.exc_info:
            content["trace"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(content, default=str).decode()
        except TypeError:  # half of a surrogate pair
            return orjson.dumps({name: ascii(value) for name, value in content.items()}).decode()


def log_as_json() -> None:
    """Write all logs of this process as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for chatty in ("sentence_transformers", "transformers", "httpx", "faiss", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def log_request(fields: dict[str, Any]) -> None:
    """Note one request that was answered."""
    record = logging.LogRecord(log.name, logging.INFO, __file__, 0, "request", None, None)
    record.fields = fields
    log.handle(record)
