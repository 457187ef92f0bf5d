"""Settings of the service: what is served, to whom, and the limits of what may be asked."""

from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


@dataclass(frozen=True)
class Limits:
    """Limits of requests. What exceeds them is refused.

    Args:
        body_mb: mebibytes of a body; a stream of items (ndjson) may have four times as many.
        histories: histories, users or items of one call.
        k: how many items may be asked for.
        history_length: ids of one history, and of a list of candidates.
        items: items of one call of PUT /v1/items.
        seconds: how long the headers or the body of a request may take, and how long a client may take to read the answer.
        connections: open connections; more are closed at once.
        waiting: requests that may wait for an answer; more are refused with 503.
    """

    body_mb: float = 16.0
    histories: int = 1_000
    k: int = 1_000
    history_length: int = 10_000
    items: int = 10_000
    seconds: float = 20.0
    connections: int = 10_000
    waiting: int = 1_024

    def __post_init__(self) -> None:
        wrong = [f"limits.{name} is {value}; it must be above 0" for name, value in vars(self).items() if not value > 0]
        if wrong:
            raise ValueError("\n".join(wrong))

    @property
    def body_bytes(self) -> int:
        """Bytes of a body."""
        return int(self.body_mb * (1 << 20))

    @property
    def stream_bytes(self) -> int:
        """Bytes of a stream of items."""
        return 4 * self.body_bytes


@dataclass(frozen=True)
class ServiceSettings:
    """How a run is served.

    `folder`: of the run. `state`: URL of the state. `users`: prepared folder whose histories become those of its users.
    `approximate`: search an index of the items.
    `hosts`: names that a request may call this service by, beside those of the loopback address; empty = any if the service
    is bound to another address. `writes`: whether the catalogue and the users may be changed. `protect_reads`: reading needs
    a token too. `window`: seconds that a request waits for others. `batch`: histories that are ranked together. `poll`: seconds
    between two looks at the state. `grace`: seconds that requests may still run when the service stops.
    """

    folder: Path
    state: str
    users: Path | None = None
    approximate: bool = False
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    protect_reads: bool = False
    writes: bool = True
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    log_ids: bool = False
    log_requests: bool = True
    window: float = 0.001
    batch: int = 64
    poll: float = 0.2
    grace: float = 30.0
    limits: Limits = field(default_factory=Limits)
