"""What stands around every call: who may call, headers that protect the page, counting, the log."""

import base64
import hashlib
import hmac
import itertools
import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from linguarec.errors import SettingsError
from linguarec.serving.logs import log_request
from linguarec.serving.metrics import Metrics
from linguarec.serving.problems import Problem
from linguarec.serving.settings import LOOPBACK, ServiceSettings

_READING = ("GET", "HEAD", "OPTIONS")
_READING_POSTS = ("/v1/recommend", "/v1/similar")
_OPEN = ("/", "/healthz", "/readyz")  # say nothing that a token protects
_WHILE_STOPPING = ("/healthz", "/metrics")
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_SHORTEST_TOKEN = 16


class Tokens:
    """The tokens of a file, one a line; several let one be exchanged for the next.

    Raises:
        SettingsError: the file cannot be read, or holds no token, or a short one.
    """

    def __init__(self, file: Path) -> None:
        try:
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError([f"--token-file {file} cannot be read: {error}"]) from error
        tokens = [line for line in lines if line and not line.startswith("#")]
        if not tokens or min(map(len, tokens)) < _SHORTEST_TOKEN:
            raise SettingsError(
                [
                    f"--token-file {file} must hold a token of at least {_SHORTEST_TOKEN} characters, one a line; "
                    f"make one by: openssl rand -hex 32 > {file}"
                ]
            )
        self._digests = [_digest(token) for token in tokens]

    def has(self, token: str) -> bool:
        """Whether it is one of them. It takes as long whatever it is."""
        given = _digest(token)
        return sum([hmac.compare_digest(given, digest) for digest in self._digests]) > 0


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class Guard:
    """Wraps the application.

    `running`: how many requests run now. `stopping`: new requests are refused.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings, metrics: Metrics) -> None:
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self.running = 0
        self.stopping = False
        self.read_tokens()
        named = {name.lower() for name in settings.hosts}
        self._hosts = {*named, *LOOPBACK} if named or settings.host in LOOPBACK else set()
        self._names = itertools.count()
        self._process = secrets.token_hex(4)

    def read_tokens(self) -> None:
        """Read the file of tokens, at the start and after a SIGHUP.

        Raises:
            SettingsError: as of `Tokens`; the earlier tokens stay.
        """
        file = self.settings.token_file
        self.tokens = None if file is None else Tokens(file)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status, size = 500, 0
        name = f"{self._process}-{next(self._names)}"

        async def send_on(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message["headers"])
                if not any(key == _POLICY[0] for key, _ in headers):
                    headers.append(_POLICY)
                message["headers"] = [*headers, *_HEADERS, (b"x-request-id", name.encode())]
            else:
                size += len(message.get("body", b""))
            await send(message)

        self.running += 1
        try:
            try:
                self._check(scope)
            except Problem as problem:
                scope["problem"] = problem.kind
                await problem.response()(scope, receive, send_on)
            else:
                await self.app(scope, receive, send_on)
        finally:
            self.running -= 1
            self._note(scope, name, status, size, time.perf_counter() - started)

    def _note(self, scope: Scope, name: str, status: int, size: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.observe(route, status, seconds)
        kind = scope.get("problem")
        if kind is not None:
            self.metrics.errors.labels(kind).inc()
        if self.settings.log_requests:
            fields: dict[str, Any] = {
                "request": name,
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round(1000 * seconds, 3),
                "bytes": size,
            }
            if kind is not None:
                fields["problem"] = kind
            if self.settings.log_ids:  # paths and their queries name items and users
                fields["path"] = scope["path"]
                fields["query"] = scope["query_string"].decode("latin-1")
                fields["client"] = (scope.get("client") or ("",))[0]
            log_request(fields)

    def _check(self, scope: Scope) -> None:
        """Refuse a request that must not be answered.

        Raises:
            Problem: 421, 503, 401 or 403.
        """
        path, method = scope["path"], scope["method"]
        headers = Headers(scope=scope)
        if self._hosts and host_of(headers.get("host", "")) not in self._hosts:
            raise Problem(
                421,
                "wrong-host",
                f"This service is not called {headers.get('host', '')!r}.",
                "Host",
                "Call it by 127.0.0.1, or name the host: --allow-host NAME.",
            )
        if self.stopping and path not in _WHILE_STOPPING:
            raise Problem(
                503,
                "stopping",
                "The service is stopping.",
                mend="Ask another replica, or again later.",
                headers={"Retry-After": "5", "Connection": "close"},
            )
        if path in _OPEN:
            return
        reading = method in _READING or path in _READING_POSTS
        if not reading and not self.settings.writes:
            raise Problem(
                403, "read-only", "This service takes no changes.", mend="Start it with --token-file to change things."
            )
        if self.tokens is not None and (not reading or self.settings.protect_reads):
            kind, _, token = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not self.tokens.has(token.strip()):
                raise Problem(
                    401,
                    "no-token",
                    "A valid token is needed." if token else "A token is needed.",
                    "Authorization",
                    "Send the header `Authorization: Bearer TOKEN`.",
                    headers={"WWW-Authenticate": "Bearer"},
                )


def host_of(header: str) -> str:
    """The name in a Host header, without the port.

    >>> host_of("LocalHost:8000"), host_of("[::1]:8000")
    ('localhost', '[::1]')
    """
    return re.sub(r":\d+$", "", header.strip().lower())


def page_policy(page: str) -> str:
    """A content security policy that lets the page run its own script and style, and call this service; nothing else."""
    scripts, styles = (_hashes(page, tag) for tag in ("script", "style"))
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(page: str, tag: str) -> str:
    found: Sequence[str] = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in found]
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
