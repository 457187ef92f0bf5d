"""What every step costs against the size of the shop: 1x, 4x and 16x as many users, items and interactions.

    python bench/scale.py                  measures all three (`--scales 1 4`: fewer) into bench/results/scale.json
    python bench/scale.py --docs           writes the tables of those results into docs/scale.md

Each step is a command in a process of its own, imports included; processor seconds and peak memory are the process's. 1x are
2,500 users, 500 items and 27,500 interactions. A cost is carried on by its slope between the two largest sizes, so that
imports do not count:

    cost(U, N, M) = (last - one before) / (driver of the last - driver of the one before) x driver(U, N, M)

where the driver is what the step's cost grows with, such as U x N for the scores of all users. Differences below a second (of
an answer: a millisecond) or 100 MiB are noise and are not carried on. `bench/scaling.py` measures a training over one catalogue
of a fixed size.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs" / "scale.md"
RESULTS = HERE / "results" / "scale.json"
USERS, ITEMS, LENGTH = 2_500, 500, 11
LARGE = {"U": 100_000_000, "N": 10_000_000, "M": 1_100_000_000}
ENCODER = "all-MiniLM-L6-v2"
ASKED = 50  # single histories
NOISE, NOISE_OF_A_CALL = {"processor_seconds": 1.0, "peak_mib": 100}, 0.001
DRIVERS: dict[str, Callable[[dict], float]] = {
    "-": lambda size: 0.0,
    "U": lambda size: size["U"],
    "N": lambda size: size["N"],
    "M": lambda size: size["M"],
    "M x N": lambda size: size["M"] * size["N"],
    "U x N": lambda size: size["U"] * size["N"],
    "N^2": lambda size: size["N"] ** 2,
    "N^3": lambda size: size["N"] ** 3,
}


@dataclass(frozen=True)
class Step:
    """A step: its command (`{}` = the folder), and what its seconds and its memory grow with."""

    name: str
    words: str
    seconds: str
    memory: str


TRAINING = "--training.max_epochs 1 --training.targets_per_step 2048"
STEPS = (
    Step("prepare", "prepare table --interactions {}/log.parquet --items {}/items.parquet -o {}/data", "M", "-"),
    Step("encode", "encode {}/data", "N", "N"),
    Step("quantize", f"quantize {{}}/data --features {ENCODER}", "N", "N"),
    Step("tokenize", "tokenize {}/data", "N", "N"),
    Step("finetune, an epoch", f"finetune sasrec-text {{}}/data -o {{}}/run {TRAINING}", "M x N", "N"),
    Step("evaluate", "evaluate {}/run --no-plots", "U x N", "U"),
    Step("recommend --for", "recommend {}/run --for {}/data -o {}/best.parquet", "U x N", "U"),
    Step("serve, a history", "", "N", "N"),
    Step("finetune ease", "finetune ease {}/data -o {}/ease", "N^3", "N^2"),
    Step("finetune itemknn", "finetune itemknn {}/data -o {}/itemknn", "M", "M"),
)


def measured(command: list[str]) -> tuple[str, float, float, float]:
    """Run a command: what it prints, seconds, processor seconds, peak MiB, its own children included."""
    with tempfile.TemporaryFile("w+") as printed:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{' '.join(command)}\n{errors}")
        printed.seek(0)
        return printed.read(), seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def measure(scale: int, folder: Path) -> list[dict]:
    """Every step at one size."""
    from generated_log import PREPARE

    subprocess.run([sys.executable, __file__, "--generate", str(folder), "--scales", str(scale)], check=True)
    found = []
    for step in STEPS:
        if step.words:
            command = [sys.executable, "-m", "linguarec.cli", *step.words.replace("{}", str(folder)).split(), "--json"]
            command += PREPARE if step.name == "prepare" else []
        else:
            command = [sys.executable, __file__, "--ask", str(folder)]
        printed, seconds, processor, peak = measured(command)
        result = json.loads(printed.splitlines()[-1])
        if step.name == "prepare":
            size = {"U": result["users"], "N": result["items"], "M": result["interactions"]}
        row = {"step": step.name, "scale": scale, **size, "seconds": round(seconds, 2)}
        row |= {"processor_seconds": round(processor, 2), "peak_mib": round(peak)}
        if not step.words:
            row |= {"seconds": result["seconds"], "processor_seconds": result["seconds"]}
        found.append(row)
        print(
            f"{scale:>3}x  {step.name:20} {seconds:8.1f} s {processor:8.1f} s of processors {peak:8,.0f} MiB",
            flush=True,
        )
    return found


def ask(folder: Path) -> dict:
    """Median seconds of the best 10 after one history, asked of an open run, as the service does."""
    import linguarec

    recommender = linguarec.load_model(folder / "run")
    data = linguarec.load_dataset(folder / "data")
    seconds = []
    for row in range(ASKED):
        history = [data.raw_item_ids[item] for item in data.sequences[row].tolist()]
        started = time.process_time()
        recommender.recommend([history], k=10)
        seconds.append(time.process_time() - started)
    return {"seconds": round(statistics.median(seconds), 5)}


def tables(results: list[dict]) -> str:
    """The tables of docs/scale.md: measured costs, their slopes, and what they come to at 100 million users."""
    scales = sorted({row["scale"] for row in results})
    rows = {(row["step"], row["scale"]): row for row in results}
    sizes = {scale: rows["prepare", scale] for scale in scales}
    shown = "; ".join(f"{s}x: {z['U']:,} users, {z['N']:,} items, {z['M']:,} interactions" for s, z in sizes.items())
    lines = [f"{shown}.", ""]
    for what, key, unit in (("seconds", "processor_seconds", "s"), ("memory", "peak_mib", "MiB")):
        heading = [f"{s}x" for s in scales]
        title = "processor time" if what == "seconds" else "peak memory"
        lines += [f"| step: {title} | grows with | {' | '.join(heading)} | slope | 100 M users, 10 M items |"]
        lines += ["|---" * (4 + len(scales)) + "|"]
        for step in STEPS:
            values = [rows[step.name, scale][key] for scale in scales]
            driver = step.seconds if what == "seconds" else step.memory
            cells = [_seconds(value) if unit == "s" else f"{value:,} MiB" for value in values]
            slope, carried = "-", "as measured" if driver == "-" else "-"
            if driver != "-" and len(scales) > 1:
                before, last = (DRIVERS[driver](sizes[scale]) for scale in scales[-2:])
                more = values[-1] - values[-2]
                if more < (NOISE[key] if step.words or unit == "MiB" else NOISE_OF_A_CALL):
                    slope, carried = "below the noise", "not carried on"
                else:
                    slope, carried = _carried(more / (last - before), driver, what)
            lines.append(f"| {step.name} | {driver} | {' | '.join(cells)} | {slope} | {carried} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def _carried(rate: float, driver: str, what: str) -> tuple[str, str]:
    """The slope for a readable number of its driver, and the cost of the large shop."""
    per = {"M x N": 1e9, "U x N": 1e9, "N^2": 1e6, "N^3": 1e9}.get(driver, 1e6)
    whole = rate * DRIVERS[driver](LARGE)
    if what == "seconds":
        return f"{rate * per:.3g} s for {per:.0e} {driver}".replace("e+0", "e"), _seconds(whole)
    return f"{rate * 2**20:,.3g} bytes for 1 {driver}", f"{whole / 1024:,.3g} GiB"


def _seconds(value: float) -> str:
    """Seconds in a readable unit.

    >>> _seconds(0.0123), _seconds(7.3), _seconds(9_000), _seconds(1e7), _seconds(1e10)
    ('12.3 ms', '7.3 s', '2.5 hours', '116 days', '317 years')
    """
    if value < 1:
        return f"{1000 * value:.3g} ms"
    for unit, size in (("years", 365.25 * 86_400), ("days", 86_400.0), ("hours", 3_600.0)):
        if value >= 2 * size:
            return f"{value / size:,.3g} {unit}"
    return f"{value:,.1f} s"


def put_into(docs: str, text: str) -> str:
    """`docs` with the measured tables replaced."""
    return re.sub(
        "(<!-- measured -->\n).*?(<!-- end -->)", lambda found: f"{found[1]}\n{text}\n\n{found[2]}", docs, flags=re.S
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scales", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--docs", action="store_true", help="write the tables of the results into docs/scale.md")
    parser.add_argument("--generate", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.generate:
        from generated_log import write_tables

        write_tables(arguments.generate, USERS * arguments.scales[0], ITEMS * arguments.scales[0])
    elif arguments.ask:
        print(json.dumps(ask(arguments.ask)))
    elif arguments.docs:
        DOCS.write_text(put_into(DOCS.read_text(), tables(json.loads(arguments.output.read_text())["results"])))
    else:
        results = []
        for scale in sorted(arguments.scales):
            with tempfile.TemporaryDirectory() as name:
                results += measure(scale, Path(name))
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        machine = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
        arguments.output.write_text(json.dumps({**machine, "results": results}, indent=2) + "\n")
        print(tables(results))


if __name__ == "__main__":
    main()
