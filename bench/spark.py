"""Preparation on Spark beside DuckDB: seconds, their ratio, and whether the prepared folders are equal.

    python bench/spark.py --interactions 1000000            a generated log in the form of Amazon 2018 (bench/prepare.py)
    python bench/spark.py --interactions 14000000           the size of the papers' pre-training corpus
    python bench/spark.py --interactions 1000000 --master spark://HOST:7077     on a cluster of yours

Without `--master` a standalone master and two workers, with one core each, are started on this machine's loopback and stopped
afterwards: that shows the overhead of a cluster, not what a cluster is for. Each engine runs in a process of its own,
its start included.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from prepare import generate

PATIENCE = 60.0  # seconds until the master listens


@contextlib.contextmanager
def cluster(workers: int, memory: str, logs: Path) -> Iterator[str]:
    """The URL of a standalone master with workers of one core each, on the loopback."""
    import pyspark

    from linguarec.data.spark_session import check_java

    check_java()
    launcher = str(Path(pyspark.__file__).parent / "bin" / "spark-class")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    master = f"spark://127.0.0.1:{port}"
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_WORKER_DIR": str(logs / "work")}
    deploy = "org.apache.spark.deploy"
    commands = [[launcher, f"{deploy}.master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", "0"]]
    worker = ["--host", "127.0.0.1", "--cores", "1", "--memory", memory, "--webui-port", "0", master]
    commands += [[launcher, f"{deploy}.worker.Worker", *worker]] * workers
    with contextlib.ExitStack() as running:
        for number, command in enumerate(commands):
            log = running.enter_context((logs / f"spark-{number}.log").open("w"))
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            running.callback(_stop, process)
            if number == 0:
                _wait(port)
        yield master


def _wait(port: int) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise SystemExit(f"The Spark master does not listen after {PATIENCE:.0f} s.")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run_one(arguments: argparse.Namespace) -> None:
    """One engine in this process; prints the result."""
    from linguarec.commands.prepare import prepare_amazon

    ratings, meta = generate(arguments.work, arguments.interactions)
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        result = prepare_amazon(
            "2018",
            ratings,
            meta,
            Path(folder) / "prepared",
            ties=arguments.ties,
            memory=arguments.memory,
            engine=arguments.one,
            master=arguments.master,
        )
    print(json.dumps({key: result[key] for key in ("users", "items", "interactions", "fingerprint")}))


def measured(engine: str, arguments: argparse.Namespace, master: str | None) -> dict:
    """Result and seconds of one engine in a process of its own."""
    command = [sys.executable, __file__, "--one", engine, "--interactions", str(arguments.interactions)]
    command += ["--work", str(arguments.work), "--memory", arguments.memory, "--ties", arguments.ties]
    command += ["--master", master] if master else []
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    """Generate, measure, compare, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=1_000_000)
    parser.add_argument("--master", help="of a cluster that runs already")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", default="1500MB", help="of DuckDB, and of each process of Spark")
    parser.add_argument("--ties", choices=["file", "random"], default="file")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "linguarec-bench-prepare")
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    parser.add_argument("--one", choices=["duckdb", "spark"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run_one(arguments)
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    generate(arguments.work, arguments.interactions)
    results = {"duckdb": measured("duckdb", arguments, None)}
    with contextlib.ExitStack() as started:
        logs = Path(started.enter_context(tempfile.TemporaryDirectory(dir=arguments.work)))
        master = arguments.master or started.enter_context(cluster(arguments.workers, "2g", logs))
        results["spark"] = measured("spark", arguments, master)
    for engine, result in results.items():
        print(f"{engine:7}", "  ".join(f"{key} {value:,}" for key, value in result.items() if key != "fingerprint"))
    equal = results["duckdb"]["fingerprint"] == results["spark"]["fingerprint"]
    ratio = round(results["spark"]["seconds"] / results["duckdb"]["seconds"], 1)
    print(f"Spark takes {ratio} times DuckDB's seconds; fingerprints are {'equal' if equal else 'NOT equal'}.")
    if arguments.output:
        content = {"cores": os.cpu_count(), "workers": arguments.workers, "equal": equal, "ratio": ratio, **results}
        arguments.output.write_text(json.dumps(content, indent=2) + "\n")
    if not equal:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
