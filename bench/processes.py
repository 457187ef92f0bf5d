"""Speed-up by processes: `encode` and `recommend --for` by two processes of one thread each, beside one process of one thread.

    python bench/processes.py [--users 60000 --items 8000 --repeats 3] [--output bench/results/processes.json]

A generated log; texts are encoded by MiniLM, and a SASRec on text of the default size, trained for one epoch on a twentieth of
the users, recommends 10 items to each user. The seconds are those that the commands report: without imports and loading, which
every process does for itself. One process and several take turns; medians. The files are compared as well: they must be equal.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from generated_log import PREPARE, write_tables

ENCODER = "all-MiniLM-L6-v2"
HERE = Path(__file__).parent


def linguarec(*words: object, processes: int = 1) -> dict:
    """What a command reports, run by processes of one thread each."""
    launcher = [sys.executable, "-m"]
    if processes > 1:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    done = subprocess.run(
        [*launcher, "linguarec.cli", *map(str, words), "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def measure(folder: Path, processes: int, repeats: int) -> list[dict]:
    """Seconds of both commands by one process and by several, in turns, and whether their files were equal."""
    data, run, best = folder / "data", folder / "run", folder / "best.parquet"
    commands = {
        "encode": (["encode", data, "--overwrite"], data / "features" / f"{ENCODER}.npy"),
        "recommend --for": (["recommend", run, "--for", data, "-o", best, "--overwrite"], best),
    }
    found = []
    for name, (words, file) in commands.items():
        seconds: dict[int, list[float]] = {1: [], processes: []}
        digests = set()
        for _ in range(repeats):
            for count in seconds:
                seconds[count].append(linguarec(*words, processes=count)["seconds"])
                digests.add(digest(file))
        medians = {count: statistics.median(times) for count, times in seconds.items()}
        ratio = medians[1] / medians[processes]
        found.append(
            {
                "command": name,
                "seconds": {str(count): times for count, times in seconds.items()},
                "medians": {str(count): median for count, median in medians.items()},
                "ratio": round(ratio, 3),
                "equal_files": len(digests) == 1,
            }
        )
        print(
            f"| {name} | {medians[1]:.1f} s | {medians[processes]:.1f} s | {ratio:.2f} | "
            f"{'equal' if len(digests) == 1 else 'DIFFERENT'} |"
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=60_000)
    parser.add_argument("--items", type=int, default=8_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "processes.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tables(folder, arguments.users, arguments.items)
        tables = ["--interactions", folder / "log.parquet", "--items", folder / "items.parquet"]
        linguarec("prepare", "table", *tables, "-o", folder / "data", *PREPARE)
        linguarec("encode", folder / "data")
        training = ["--users", "0.05", "--training.max_epochs", "1"]
        linguarec("finetune", "sasrec-text", folder / "data", "-o", folder / "run", *training)
        print(f"| command | 1 process | {arguments.processes} processes | ratio | files |")
        print("|---|---|---|---|---|")
        found = measure(folder, arguments.processes, arguments.repeats)
    settings = {name: getattr(arguments, name) for name in ("users", "items", "processes", "repeats")}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    result = {**settings, "cores": os.cpu_count(), "load": os.getloadavg()[0], "results": found}
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
