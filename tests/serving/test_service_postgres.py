"""The service on PostgreSQL that is stopped and started under load: 503 with Retry-After, then it goes on."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from postgres import Postgres
from service import Shop, api_of, vector_run, wait_until

from linguarec.serving.live import Live

WIDTH = 8


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_postgresql_is_stopped_and_started_under_load(
    postgres: Postgres, postgres_url: str, tmp_path: Path, how: signal.Signals
):
    run = tmp_path / "run"
    raw_ids = vector_run(run, np.random.default_rng(0).standard_normal((50, WIDTH)).astype(np.float32))
    live = Live.open(run, postgres_url)
    stopping = threading.Event()
    progress, refusals, answers = [0] * 3, [0] * 3, [0]

    with api_of(Shop(run, run, run, run, raw_ids), live) as api:

        def write(thread: int) -> int:
            """Upserts and events, each repeated until it is taken."""
            while not stopping.is_set():
                number = progress[thread]
                item = {"raw_id": f"t{thread}-{number}", "title": f"Thing {number}", "vector": [1.0] * WIDTH}
                event = {"user": f"u{thread}", "raw_id": f"e{number}"}
                key = {"Idempotency-Key": f"{thread}/{number}"}
                for call in (
                    lambda item=item: api.put("/v1/items", json={"items": [item]}),
                    lambda event=event, key=key: api.post("/v1/events", json={"events": [event]}, headers=key),
                ):
                    while (answer := call()).status_code != 200:
                        assert answer.status_code == 503, answer.text
                        assert answer.json()["type"] == "urn:linguarec:no-state"
                        assert int(answer.headers["Retry-After"]) >= 1
                        refusals[thread] += 1
                progress[thread] += 1
            return progress[thread]

        def read() -> None:
            """Histories are answered all the time."""
            while not stopping.is_set():
                answer = api.post("/v1/recommend", json={"histories": [raw_ids[:3]], "k": 5})
                assert answer.status_code == 200 and len(answer.json()["recommendations"][0]) == 5
                answers[0] += 1

        def wait_for(counters: list[int], more: int) -> None:
            goals = [value + more for value in counters]
            wait_until(lambda: all(value >= goal for value, goal in zip(counters, goals, strict=True)))

        with ThreadPoolExecutor(4) as threads:
            writing, reading = [threads.submit(write, thread) for thread in range(3)], threads.submit(read)
            try:
                for _ in range(2):
                    wait_for(progress, 3)
                    postgres.stop(how)
                    wait_for(refusals, 2)
                    wait_for(answers, 3)
                    assert api.get("/v1/users/u0/recommendations").status_code == 503
                    assert api.get("/readyz").status_code == 200
                    postgres.start()
            finally:
                if postgres.server is None:
                    postgres.start()
                if all(not one.done() for one in writing):
                    wait_for(progress, 2)
                stopping.set()
            done = [one.result() for one in writing]
            reading.result()
        for thread in range(3):
            assert live.store.history(f"u{thread}", 10_000) == [f"e{number}" for number in range(done[thread])]
        assert api.get("/v1/items", params={"q": "thing t", "limit": 1}).json()["total"] >= sum(done)
        assert live.store.counts()["items"] == sum(done)
        assert live.served.present == len(raw_ids) + sum(done)
