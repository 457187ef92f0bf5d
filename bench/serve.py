"""What the service answers, and how fast: client and server on this machine, over the loopback interface.

    python bench/serve.py RUN [--repeats 3] [--seconds 4] [-o bench/results/serve.json]

Requests of single histories of ten items, k = 10. The client is one process with plain sockets. All loads are bounded in time.
Each figure is the median of the repeats, and a comparison alternates its sides in the same run. `cpu` is the server's processor
time a request: on a machine that others use too it says more than requests a second.

    load       closed loop with 64 connections, with and without 10 upserts a second; and 1,000 requests a second offered
    batching   requests ranked together up to 64, or each alone, at 1, 16 and 64 connections
    bare       p50 of one connection against the same call of the library in the client's process
    visible    from sending an item until an answer has it, by its text and by a vector
    plain      the usual service: FastAPI, one request is one call of the model
    start      from starting the process until it answers, and its memory
    million    with `--million FOLDER`: a run of a million generated vectors of width 300, made there if it is missing (see
               bench/recommend.py); start, memory, exact p50 beside the bare ranker call, and approximate ranking
"""

import argparse
import asyncio
import json
import os
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

LENGTH = 10
PLAIN = """
import sys
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from linguarec.recommender import Recommender

app, recommender = FastAPI(), Recommender.load(sys.argv[1])


class Asked(BaseModel):
    histories: list[list[str]]
    k: int = 10


@app.post("/v1/recommend")
def recommend(asked: Asked):
    found = recommender.recommend(asked.histories, asked.k)
    return {"recommendations": [[vars(one) for one in each] for each in found]}


@app.get("/readyz")
def ready():
    return {}


print(f"http://127.0.0.1:{sys.argv[2]}", flush=True)
uvicorn.run(app, port=int(sys.argv[2]), access_log=False, log_level="warning")
"""


class Server:
    """A service in a process of its own."""

    def __init__(self, words: list[str]) -> None:
        started = time.perf_counter()
        settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | settings,
        )
        assert self.process.stdout is not None
        self.port = int(re.findall(r"http://127.0.0.1:(\d+)", self.process.stdout.readline())[0])
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        while True:
            try:
                if self.client.get("/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.02)
        self.seconds = time.perf_counter() - started

    def cpu(self) -> float:
        """Seconds of processor time until now."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> int:
        """Memory of its own, without mapped files, in mebibytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"RssAnon:\s+(\d+)", text)[0]) // 1024

    def stop(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


@contextmanager
def served(run: Path, *flags: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        state = str(Path(folder) / "state.sqlite")
        server = Server(["-m", "linguarec.cli", "serve", str(run), "--port", "0", "--state", state, *flags])
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def plain(run: Path) -> Iterator[Server]:
    server = Server(["-c", PLAIN, str(run), str(random.randint(20_000, 40_000))])
    try:
        yield server
    finally:
        server.stop()


def requests_of(raw_ids: list[str], count: int = 2_000) -> list[bytes]:
    """Whole HTTP requests."""
    drawn = np.random.default_rng(0).integers(len(raw_ids), size=(count, LENGTH))
    found = []
    for row in drawn.tolist():
        body = json.dumps({"histories": [[raw_ids[item] for item in row]], "k": 10}).encode()
        lines = ["POST /v1/recommend HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
        found.append(head.encode() + body)
    return found


class Connection(asyncio.Protocol):
    """Sends one request after the other and notes how long each takes; with `rate`, at its times."""

    def __init__(self, load: "Load", number: int) -> None:
        self.load, self.number, self.waiting = load, number, b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        load = self.load
        now = time.perf_counter()
        if load.interval:  # the request counts from the moment at which it should be sent
            self.started = load.begun + load.interval * load.sent
            if self.started > now:
                load.sent += 1
                asyncio.get_running_loop().call_later(self.started - now, self.write)
                return
        else:
            self.started = now
        load.sent += 1
        self.write()

    def write(self) -> None:
        self.transport.write(self.load.requests[random.randrange(len(self.load.requests))])

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        end = self.waiting.find(b"\r\n\r\n")
        if end < 0:
            return
        length = int(re.findall(rb"content-length: (\d+)", self.waiting[:end], re.IGNORECASE)[0])
        if len(self.waiting) < end + 4 + length:
            return
        now = time.perf_counter()
        self.load.seconds.append(now - self.started)
        self.load.errors += not self.waiting.startswith(b"HTTP/1.1 200")
        self.waiting = b""
        if now < self.load.end:
            self.send()
        else:
            self.transport.close()
            self.load.open -= 1

    def connection_lost(self, error: Exception | None) -> None:
        if time.perf_counter() < self.load.end:
            self.load.errors += 1
            self.load.open -= 1


class Load:
    """A load of some connections for some seconds; `rate`: requests a second that are offered, 0 = as many as are answered."""

    def __init__(
        self, server: Server, requests: list[bytes], connections: int, seconds: float, rate: float = 0
    ) -> None:
        self.requests, self.seconds, self.errors, self.sent, self.open = requests, [], 0, 0, connections
        self.interval = 1 / rate if rate else 0.0

        async def run() -> None:
            self.begun = time.perf_counter()
            self.end = self.begun + seconds
            loop = asyncio.get_running_loop()
            for number in range(connections):
                await loop.create_connection(lambda number=number: Connection(self, number), "127.0.0.1", server.port)
            while self.open and time.perf_counter() < self.end + 10:
                await asyncio.sleep(0.01)

        cpu = server.cpu()
        import uvloop

        uvloop.run(run())
        took = time.perf_counter() - self.begun
        each = np.array(self.seconds) * 1000
        self.result = {
            "requests_a_second": len(each) / took,
            "p50_ms": float(np.percentile(each, 50)),
            "p99_ms": float(np.percentile(each, 99)),
            "cpu_ms": 1000 * (server.cpu() - cpu) / len(each),
            "errors": self.errors,
        }


def with_upserts(server: Server, rate: float) -> "Any":
    """Upserts of items by their text, in a process of their own, until it is stopped."""
    code = (
        "import httpx, time, itertools\n"
        f"client = httpx.Client(base_url='http://127.0.0.1:{server.port}', timeout=60)\n"
        "for number in itertools.count():\n"
        "    client.put('/v1/items', json={'items': [{'raw_id': f'up-{number}', 'title': f'A new thing, number {number}'}]})\n"
        f"    time.sleep({1 / rate})\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


def median(results: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(result[name] for result in results), 3) for name in results[0]}


def loads(run: Path, requests: list[bytes], seconds: float, repeats: int) -> dict[str, Any]:
    found: dict[str, list[Any]] = {"alone": [], "with 10 upserts a second": [], "1,000 offered, with upserts": []}
    with served(run, "--no-log-requests") as server:
        Load(server, requests, 64, 2)
        for _ in range(repeats):
            found["alone"].append(Load(server, requests, 64, seconds).result)
            upserts = with_upserts(server, 10)
            found["with 10 upserts a second"].append(Load(server, requests, 64, seconds).result)
            found["1,000 offered, with upserts"].append(Load(server, requests, 64, seconds, rate=1_000).result)
            upserts.kill()
            upserts.wait()
    return {name: median(results) for name, results in found.items()}


def batching(run: Path, requests: list[bytes], seconds: float, repeats: int) -> dict[str, Any]:
    found: dict[str, list[Any]] = {}
    with (
        served(run, "--no-log-requests") as together,
        served(run, "--no-log-requests", "--batch-size", "1", "--batch-window-ms", "0") as alone,
        plain(run) as usual,
    ):
        for server in (together, alone, usual):
            Load(server, requests, 16, 1)
        for _ in range(repeats):
            for connections in (1, 16, 64):
                for name, server in (("batches", together), ("each alone", alone), ("plain FastAPI", usual)):
                    result = Load(server, requests, connections, seconds).result
                    found.setdefault(f"{connections} connections, {name}", []).append(result)
    return {name: median(results) for name, results in found.items()}


def bare(run: Path, raw_ids: list[str], requests: list[bytes], seconds: float, repeats: int) -> dict[str, float]:
    from linguarec.recommender import Recommender

    recommender = Recommender.load(run)
    drawn = np.random.default_rng(1).integers(len(raw_ids), size=(200, LENGTH)).tolist()
    recommender.recommend([[raw_ids[item] for item in drawn[0]]])
    calls, answers = [], []
    with served(run, "--no-log-requests") as server:
        for _ in range(repeats):
            each = []
            for row in drawn:
                started = time.perf_counter()
                recommender.recommend([[raw_ids[item] for item in row]], k=10)
                each.append(1000 * (time.perf_counter() - started))
            calls.append(statistics.median(each))
            answers.append(Load(server, requests, 1, seconds).result["p50_ms"])
    return {"call_p50_ms": round(statistics.median(calls), 3), "service_p50_ms": round(statistics.median(answers), 3)}


def visible(run: Path, width: int, count: int = 100) -> dict[str, Any]:
    """Milliseconds from sending an item until an answer has it."""
    found: dict[str, list[float]] = {"by text": [], "by vector": []}
    rng = np.random.default_rng(2)
    with served(run, "--no-log-requests") as server:
        client = server.client
        known = client.get("/v1/items", params={"limit": 1}).json()["items"][0]["raw_id"]
        client.put("/v1/items", json={"items": [{"raw_id": "first", "title": "The first one"}]})
        for number in range(count):
            for kind in found:
                item: dict[str, Any] = {"raw_id": f"{kind} {number}", "title": f"A thing of steel, number {number}"}
                if kind == "by vector":
                    item["vector"] = rng.standard_normal(width).round(4).tolist()
                started = time.perf_counter()
                client.put("/v1/items", json={"items": [item]}).raise_for_status()
                body = {"histories": [[known]], "within": [item["raw_id"]]}
                answer = client.post("/v1/recommend", json=body).json()
                assert answer["recommendations"][0][0]["raw_id"] == item["raw_id"]
                found[kind].append(1000 * (time.perf_counter() - started))
    return {
        kind: {"p50_ms": round(float(np.percentile(each, 50)), 1), "p99_ms": round(float(np.percentile(each, 99)), 1)}
        for kind, each in found.items()
    }


def start(run: Path, repeats: int) -> dict[str, float]:
    seconds, memory = [], []
    for _ in range(repeats):
        with served(run) as server:
            seconds.append(server.seconds)
            memory.append(server.memory_mb())
    return {"seconds": round(statistics.median(seconds), 2), "memory_mb": statistics.median(memory)}


def million(folder: Path, seconds: float, repeats: int) -> dict[str, Any]:
    """A run of a million items, exact and approximate."""
    import torch
    from recommend import TEXT_WIDTH, base_vectors, queries_of, write_keys, write_run

    from linguarec.ranking.approximate import ApproximateRanker
    from linguarec.serving.answers import Served

    rng, run = np.random.default_rng(0), folder / "run"
    base = base_vectors(None, 300, rng)
    if not run.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_keys(folder / "keys.npy", base, 1_000_000, rng)
        write_run(run, folder / "keys.npy", rng.standard_normal((8, TEXT_WIDTH)).astype(np.float32))
    torch.set_num_threads(1)
    recommender = Served.open(run, approximate=True).recommender  # builds the index, unless it is there
    index, raw_ids = recommender.snapshot.ranker, recommender.catalogue.raw_ids
    assert isinstance(index, ApproximateRanker)
    drawn = np.random.default_rng(3).integers(len(raw_ids), size=(500, LENGTH))
    requests = requests_of([raw_ids[item] for item in drawn.ravel().tolist()])
    queries = torch.cat([query for _, query in recommender.scorer.queries(recommender.snapshot.inputs, rows_of(drawn))])
    found: dict[str, Any] = {
        "items": len(raw_ids),
        "keys_mb": round(index.dense.keys.nbytes / 2**20),
        "recall@10": {
            "queries of random histories": round(index.recall(queries[:100], 10), 4),
            "queries like the items": round(index.recall(queries_of(base, 200, rng), 10), 4),
        },
    }
    for name, flags in (("exact", ["--no-log-requests"]), ("approximate", ["--no-log-requests", "--approximate"])):
        ranker = index.dense if name == "exact" else index
        calls, alone, many, started, memory = [], [], [], [], []
        for _ in range(repeats):
            with served(run, *flags) as server:
                started.append(server.seconds)
                Load(server, requests, 1, 1)
                each = []
                for number in range(20):
                    begun = time.perf_counter()
                    ranker.top_k(queries[number : number + 1], 10)
                    each.append(1000 * (time.perf_counter() - begun))
                calls.append(statistics.median(each))
                alone.append(Load(server, requests, 1, seconds).result)
                many.append(Load(server, requests, 64, seconds).result)
                memory.append(server.memory_mb())
        found[name] = {
            "start_seconds": round(statistics.median(started), 2),
            "memory_mb": statistics.median(memory),
            "memory_and_keys_over_keys": round(statistics.median(memory) / found["keys_mb"] + 1, 2),
            "bare_ranker_p50_ms": round(statistics.median(calls), 2),
            "1 connection": median(alone),
            "64 connections": median(many),
        }
    return found


def rows_of(drawn: Any) -> Any:
    """Histories [Q, LENGTH] of items."""
    from linguarec.data.ragged import Ragged

    return Ragged(drawn.ravel().astype(np.int32), np.arange(len(drawn) + 1, dtype=np.int64) * LENGTH)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--million", type=Path, help="folder for the run of a million items; 4 GB")
    parser.add_argument("--only", nargs="*", default=["load", "batching", "bare", "visible", "start"])
    asked = parser.parse_args()
    from linguarec.recommender import Recommender

    recommender = Recommender.load(asked.run)
    raw_ids = list(recommender.catalogue.raw_ids)
    requests = requests_of(raw_ids)
    width = getattr(recommender.snapshot.source, "shape").feature_width  # noqa: B009
    found: dict[str, Any] = {
        "run": asked.run.name,
        "items": len(raw_ids),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "seconds": asked.seconds,
        "repeats": asked.repeats,
    }
    parts = {
        "load": lambda: loads(asked.run, requests, asked.seconds, asked.repeats),
        "batching": lambda: batching(asked.run, requests, asked.seconds, asked.repeats),
        "bare": lambda: bare(asked.run, raw_ids, requests, asked.seconds, asked.repeats),
        "visible": lambda: visible(asked.run, width),
        "start": lambda: start(asked.run, asked.repeats),
    }
    if asked.million is not None:
        parts["million"] = lambda: million(asked.million, asked.seconds, asked.repeats)
        asked.only = [*asked.only, "million"]
    for name in asked.only:
        found[name] = parts[name]()
        print(json.dumps({name: found[name]}, indent=2))
    if asked.output:
        asked.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
