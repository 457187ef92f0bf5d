"""The service as a process: signals, kills, slow and many clients, several workers."""

import contextlib
import json
import resource
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from service import Service, Shop, vector_run, wait_until

from linguarec.client import Client
from linguarec.commands.serve import serve
from linguarec.errors import LinguarecError
from linguarec.serving.settings import Limits

HALF_OPEN = 10_000
SECONDS = 2  # that headers, bodies and readers may take


@pytest.fixture(scope="module")
def patient(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with short deadlines and a small limit of bodies."""
    state = tmp_path_factory.mktemp("patient") / "state.sqlite"
    with Service(shop.run, state, f"--limits.seconds={SECONDS}", "--limits.body_mb=4") as made:
        yield made


def connect(service: Service) -> socket.socket:
    return socket.create_connection((service.host, service.port), timeout=30)


def head_of(call: str, body: int | str) -> bytes:
    """The head of a request; `body`: its length, or a header that says how it comes."""
    length = f"Content-Length: {body}" if isinstance(body, int) else body
    return f"{call} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{length}\r\n\r\n".encode()


def answer_of(connection: socket.socket) -> bytes:
    """All that comes until the connection is closed."""
    parts = []
    try:
        while part := connection.recv(65_536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def recommended(service: Service, shop: Shop) -> float:
    """Seconds of a request that is answered as it should be."""
    started = time.monotonic()
    answer = service.client.post("/v1/recommend", json={"histories": [shop.ids[:3]], "k": 5})
    assert answer.status_code == 200 and len(answer.json()["recommendations"][0]) == 5
    return time.monotonic() - started


# -- clients that behave badly -----------------------------------------------------------------------------------------


def test_a_body_of_100_mb_is_refused_and_the_answer_arrives(patient: Service, shop: Shop):
    block = b" " * (1 << 20)
    chunk = b"100000\r\n" + block + b"\r\n"
    for body, part, end in ((100 << 20, block, b""), ("Transfer-Encoding: chunked", chunk, b"0\r\n\r\n")):
        for call in ("PUT /v1/items", "POST /v1/recommend"):
            with connect(patient) as connection:
                connection.sendall(head_of(call, body))
                for _ in range(100):
                    connection.sendall(part)
                connection.sendall(end)
                found = answer_of(connection)
            assert found.startswith(b"HTTP/1.1 413"), found[:200]
            assert json.loads(found.partition(b"\r\n\r\n")[2])["type"] == "urn:linguarec:too-large"
    recommended(patient, shop)


def test_slow_clients_are_cut_off_and_do_not_hold_others_up(patient: Service, shop: Shop):
    nothing, half, slow_body = connect(patient), connect(patient), connect(patient)
    half.sendall(b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-")
    slow_body.sendall(head_of("POST /v1/recommend", 1_000) + b"{")
    started = time.monotonic()
    recommended(patient, shop)
    assert answer_of(nothing) == b"" and answer_of(half) == b""
    assert answer_of(slow_body).startswith(b"HTTP/1.1 408")
    assert time.monotonic() - started < 10 * SECONDS
    for each in (nothing, half, slow_body):
        each.close()


def test_a_drip_of_a_body_is_cut_off_in_the_end(patient: Service):
    with connect(patient) as connection:
        connection.sendall(head_of("POST /v1/events", 100_000))
        started, cut = time.monotonic(), False
        while not cut and time.monotonic() - started < 10 * SECONDS:
            try:
                connection.sendall(b" ")
                connection.settimeout(0.1)
                cut = not connection.recv(1_000).startswith(b"nothing")
            except TimeoutError:
                continue
            except ConnectionError:
                cut = True
        assert cut


def test_a_client_that_does_not_read_is_cut_off(patient: Service, shop: Shop):
    """Its answers fill the buffers; then the connection is closed, and others were answered all the time."""
    body = json.dumps({"histories": [shop.ids[:3]] * 500, "k": 48}).encode()
    head = head_of("POST /v1/recommend", len(body))
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(30)
        connection.connect((patient.host, patient.port))
        connection.sendall(head + body)
        recommended(patient, shop)

        def cut() -> bool:
            try:
                connection.send(b"x")
            except ConnectionError:
                return True
            return False

        wait_until(cut, 30)


def test_headers_without_an_end_are_refused(patient: Service, shop: Shop):
    with connect(patient) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"a" * 200_000)
        assert answer_of(connection)[:12] in (b"HTTP/1.1 431", b"")
    recommended(patient, shop)


@pytest.mark.parametrize(
    "content",
    [b"\x00" * 100, b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00" * 20, b"GET / HTTP/9.9\r\n\r\n", b"GET  HTTP/1.1\r\n\r\n",
     b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
     b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_http_is_refused(patient: Service, shop: Shop, content: bytes):
    with connect(patient) as connection:
        connection.sendall(content)
        assert answer_of(connection)[:12] in (b"HTTP/1.1 400", b"")
    recommended(patient, shop)


def test_ten_thousand_half_open_connections_do_not_hold_others_up(tmp_path: Path):
    """As many as this process may open, if those are fewer; the test is then skipped in the end, and says so."""
    raw_ids = vector_run(tmp_path / "run", np.eye(50, 8, dtype=np.float32))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    count = min(HALF_OPEN, most - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), hard))
    half: list[socket.socket] = []
    try:
        with Service(
            tmp_path / "run", tmp_path / "state.sqlite", "--limits.seconds=60", f"--limits.connections={count + 20}"
        ) as service:
            for _ in range(count):
                half.append(connect(service))
                half[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost:")
            client = httpx.Client(base_url=service.client.base_url, timeout=60)
            seconds = []
            for _ in range(20):
                started = time.monotonic()
                answer = client.post("/v1/recommend", json={"histories": [raw_ids[:3]], "k": 5})
                seconds.append(time.monotonic() - started)
                assert answer.status_code == 200 and len(answer.json()["recommendations"][0]) == 5
            assert sorted(seconds)[10] < 1
            for connection in half[:: count // 100]:  # each of them still works
                connection.sendall(b" localhost\r\nConnection: close\r\n\r\n")
            for connection in half[:: count // 100]:
                assert answer_of(connection).startswith(b"HTTP/1.1 200")
            over = [connect(service) for _ in range(200)]  # more than it takes: the last ones are closed at once
            assert answer_of(over[-1]) == b""
            for connection in over:
                connection.close()
    finally:
        for connection in half:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if count < HALF_OPEN:
        pytest.skip(f"passed with {count:,} connections only: a process may open {most:,} files here")


def test_half_open_connections_are_closed_once_their_time_is_over(patient: Service, shop: Shop):
    half = [connect(patient) for _ in range(200)]
    for connection in half:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
    for connection in half:
        assert answer_of(connection) == b""
        connection.close()
    recommended(patient, shop)


# -- stopping and reloading --------------------------------------------------------------------------------------------


def test_a_stop_ends_what_runs_and_refuses_what_comes(shop: Shop, tmp_path: Path):
    with Service(shop.run, tmp_path / "state.sqlite") as service:
        body = {"histories": [[shop.ids[row % 40] for row in range(10)]] * 900, "k": 48}
        running = ThreadPoolExecutor(2)
        clients = [httpx.Client(base_url=service.client.base_url, timeout=60) for _ in range(3)]
        clients[2].get("/healthz")  # an open connection
        answers = [running.submit(client.post, "/v1/recommend", json=body) for client in clients[:2]]
        for _ in range(3):  # meanwhile both requests arrive
            clients[2].get("/healthz")
        service.process.send_signal(signal.SIGTERM)
        late: list[Any] = []
        while service.process.poll() is None:
            try:
                late.append(clients[2].get("/readyz").status_code)
            except httpx.TransportError:
                late.append("closed")
                break
        assert [len(answer.result().json()["recommendations"]) for answer in answers] == [900, 900]
        assert service.process.wait(30) == 0
        assert set(late) <= {200, 503, "closed"} and late[-1] in (503, "closed")
        assert not any(line["level"] == "error" for line in service.lines())


def test_sighup_opens_the_run_anew_and_a_broken_run_is_not_served(shop: Shop, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(shop.run, run)

    def files() -> dict[Path, tuple[int, int]]:
        found = {file: file.stat() for file in run.rglob("*") if file.name != "model.safetensors"}
        return {file: (stat.st_mtime_ns, stat.st_size) for file, stat in found.items()}

    as_it_was = files()
    with Service(run, tmp_path / "state.sqlite") as service:
        with Client(f"http://{service.host}:{service.port}") as client:
            client.upsert([{"raw_id": "new", "title": "Walnut cake stand"}])
            before = client.model()["loaded"]
            shutil.copy(run / "model.safetensors", tmp_path / "kept")
            (run / "model.safetensors").write_bytes(b"broken")
            service.process.send_signal(signal.SIGHUP)
            wait_until(lambda: any("reload failed" in line["message"] for line in service.lines()))
            assert client.model()["loaded"] == before and client.recommend([["new"]], k=3)["recommendations"][0]
            shutil.copy(tmp_path / "kept", run / "model.safetensors")
            service.process.send_signal(signal.SIGHUP)
            wait_until(lambda: client.model()["loaded"] > before)
            assert client.item("new")["title"] == "Walnut cake stand"
        assert service.stop() == 0
    assert files() == as_it_was  # the service never writes to the run


# -- several processes -------------------------------------------------------------------------------------------------


def test_workers_share_what_changes_and_what_is_served(shop: Shop, tmp_path: Path):
    for name in ("run", "other"):
        shutil.copytree(getattr(shop, name), tmp_path / name)
    with Service(tmp_path / "run", tmp_path / "state.sqlite", "--workers", "2") as service:
        address = f"http://{service.host}:{service.port}"

        def of_many(path: str) -> list[Any]:
            """The answers of connections of their own, which reach both processes."""
            return [httpx.get(f"{address}{path}").json() for _ in range(12)]

        with Client(address) as client:
            client.upsert([{"raw_id": "new", "title": "Walnut cake stand"}])
            wait_until(lambda: all("title" in found for found in of_many("/v1/items/new")))
            client.reload("other")
            wait_until(lambda: all(found["run"] == "other" for found in of_many("/v1/model")))
            assert all(found["title"] == "Walnut cake stand" for found in of_many("/v1/items/new"))
        lines = httpx.get(f"{address}/metrics").text.splitlines()
        count = next(
            line for line in lines if line.startswith('linguarec_requests_total{route="/v1/model",status="200"}')
        )
        assert float(count.split()[-1]) >= 12
        pids = {line["pid"] for line in service.lines() if line["message"] == "serving"}
        assert len(pids) == 2
        import os

        os.kill(min(pids), signal.SIGKILL)
        wait_until(lambda: len({line["pid"] for line in service.lines() if line["message"] == "serving"}) == 3)
        assert all(found["run"] == "other" for found in of_many("/v1/model"))
        assert service.stop() == 0


def test_what_cannot_be_served_is_said_at_once(shop: Shop, tmp_path: Path):
    (tmp_path / "tokens").write_text("short")
    with socket.create_server(("127.0.0.1", 0)) as blocker:
        cases: list[tuple[Path, dict[str, Any], str]] = [
            (tmp_path / "nix", {}, "nix"),
            (shop.run, {"token_file": tmp_path / "tokens"}, "at least 16 characters"),
            (shop.run, {"token_file": tmp_path / "nix"}, "cannot be read"),
            (shop.run, {"port": blocker.getsockname()[1]}, "choose another --port"),
            (shop.run, {"port": 65_536}, "--port is 65536"),
            (shop.run, {"host": "256.1.1.1"}, "cannot be listened on"),
            (shop.run, {"workers": 0, "batch_size": 0}, "--workers is 0.*\n--batch-size is 0"),
            (shop.run, {"batch_window_ms": -1.0}, "--batch-window-ms is -1"),
            (shop.run, {"grace_seconds": -1.0}, "--grace-seconds is -1"),
            (shop.run, {"protect_reads": True}, "--protect-reads needs --token-file"),
            (shop.run, {"state": str(tmp_path / "no" / "folder.sqlite")}, "folder"),
            (shop.run, {"users": tmp_path / "nix"}, "nix"),
        ]
        for run, settings, message in cases:
            with pytest.raises(LinguarecError, match=message):
                serve(run, **{"port": 0, "state": str(tmp_path / "state.sqlite"), **settings})
    with pytest.raises(ValueError, match=r"limits.seconds is 0; it must be above 0"):
        Limits(seconds=0)
