"""The service killed under load, again and again: what was acknowledged is there afterwards, and nothing twice."""

import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from forked_service import ForkedService, Forks
from service import vector_run, wait_until

from linguarec.client import Client
from linguarec.errors import ServiceError
from linguarec.serving.state import Store

KILLS, WIDTH = 20, 8


class Writer(threading.Thread):
    """Upserts, removes and adds events, and notes what is acknowledged, until the service is gone."""

    def __init__(self, service: ForkedService, name: str) -> None:
        super().__init__()
        self.address, self.name = f"http://{service.host}:{service.port}", name
        self.there: dict[str, str | None] = {}  # id -> its title, None = removed
        self.unsure: set[str] = set()  # ids whose last change was not acknowledged
        self.events: list[str] = []
        self.keys: list[tuple[str, str]] = []  # of events that were sent and not acknowledged
        self.removals = 0
        self.failure: ServiceError | None = None

    def run(self) -> None:
        rng = random.Random(self.name)
        vector = [rng.uniform(-1, 1) for _ in range(WIDTH)]
        with Client(self.address, retries=0) as client:
            for number in range(100_000):
                raw_id, title = f"{self.name}-{rng.randrange(4)}", f"Title {number}"
                try:
                    self.unsure.add(raw_id)
                    if self.there.get(raw_id) is not None and rng.random() < 0.7:
                        client.remove(raw_id)
                        self.there[raw_id] = None
                        self.removals += 1
                    else:
                        client.upsert([{"raw_id": raw_id, "title": title, "vector": vector}])
                        self.there[raw_id] = title
                    self.unsure.discard(raw_id)
                    event = (f"{self.name} event {number}", f"{self.name}/{number}")
                    self.keys.append(event)
                    client.add_events([{"user": self.name, "raw_id": event[0]}], key=event[1])
                    self.keys.pop()
                    self.events.append(event[0])
                except ServiceError as error:
                    if error.status:
                        self.failure = error
                    return

    def check(self, service: ForkedService) -> None:
        """What was acknowledged is there; what was not is sent again, as a client does."""
        assert self.failure is None, self.failure
        for raw_id, title in self.there.items():
            if raw_id not in self.unsure:
                found = service.client.get(f"/v1/items/{raw_id}")
                assert found.status_code == (404 if title is None else 200), (raw_id, title)
                assert title is None or found.json()["title"] == title
        with Client(self.address) as client:
            for event, key in self.keys:
                client.add_events([{"user": self.name, "raw_id": event}], key=key)
                self.events.append(event)
        self.keys.clear()


@pytest.mark.slow
def test_what_was_acknowledged_survives_twenty_kills_and_nothing_is_there_twice(tmp_path: Path):
    run, state = tmp_path / "run", str(tmp_path / "state.sqlite")
    trained = vector_run(run, np.random.default_rng(0).standard_normal((50, WIDTH)).astype(np.float32))
    rng = random.Random(5)
    writers: list[Writer] = []
    with Forks() as forks, ForkedService(forks, run, state) as service:
        for number in range(KILLS):
            started = [Writer(service, f"w{number}{name}") for name in "ab"]
            for writer in started:
                writer.start()
            wait_until(lambda started=started: all(len(writer.events) > 3 for writer in started))
            time.sleep(rng.uniform(0, 0.2))  # a random moment
            service.stop(signal.SIGKILL)
            for writer in started:
                writer.join()
            writers += started
            service.start()
            for writer in started:
                writer.check(service)
        for writer in writers:
            writer.check(service)
        with Client(f"http://{service.host}:{service.port}") as client:
            listed = [item["raw_id"] for item in client.search("title", limit=1_000)["items"]]
            assert len(listed) == len(set(listed))
            sure = {raw_id for writer in writers for raw_id in writer.there.keys() - writer.unsure}
            there = {raw_id for writer in writers for raw_id, title in writer.there.items() if title is not None}
            assert there & sure == set(listed) & sure
            assert client.model()["items"] == len(trained) + len(listed)
        service.stop()
    store = Store.open(state, "any")
    for writer in writers:
        assert store.history(writer.name, 100_000) == writer.events
    assert store.counts()["events"] == sum(len(writer.events) for writer in writers) > KILLS
    assert sum(writer.removals for writer in writers) > KILLS
    store.close()
