"""What every step costs against the size of the shop: 1x, 4x and 16x as many users, items and interactions.

    python bench/scale.py                  measures all three (`--scales 1 4`: fewer) into bench/results/scale.json
    python bench/scale.py --docs           writes the tables of those results into docs/scale.md

Each step is a command in a process of its own, imports included; processor seconds and peak memory are the process's. 1x are
2,500 users U, 500 items N and 27,500 interactions M, and all of them grow by the scale s. A cost is split by its measurements:

    cost(s) = fixed + a s                  where it grows with U, N or M: a by the two largest scales
    cost(s) = fixed + a s + b s^p          where it also grows with U x N, M x N, N^2 (p = 2) or N^3 (p = 3): by three scales

and carried on: a by U, N or M, b by the product. Terms below a second (of an answer: a millisecond) or 100 MiB at the largest
scale are noise and are not carried on. `bench/scaling.py` measures a training over one catalogue of a fixed size.
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
PRODUCTS: dict[str, Callable[[dict], float]] = {
    "M x N": lambda size: size["M"] * size["N"],
    "U x N": lambda size: size["U"] * size["N"],
    "N^2": lambda size: size["N"] ** 2,
    "N^3": lambda size: size["N"] ** 3,
}


@dataclass(frozen=True)
class Step:
    """A step: its command (`{}` = the folder), and what its seconds and its memory grow with: U, N or M, and a product."""

    name: str
    words: str
    seconds: tuple[str, ...]
    memory: tuple[str, ...]


TRAINING = "--training.max_epochs 1 --training.targets_per_step 2048"
STEPS = (
    Step("prepare", "prepare table --interactions {}/log.parquet --items {}/items.parquet -o {}/data", ("M",), ("M",)),
    Step("encode", "encode {}/data", ("N",), ("N",)),
    Step("quantize", f"quantize {{}}/data --features {ENCODER}", ("N",), ("N",)),
    Step("tokenize", "tokenize {}/data", ("N",), ("N",)),
    Step("finetune, an epoch", f"finetune sasrec-text {{}}/data -o {{}}/run {TRAINING}", ("M", "M x N"), ("N",)),
    Step("evaluate", "evaluate {}/run --no-plots", ("U", "U x N"), ("M",)),
    Step("recommend --for", "recommend {}/run --for {}/data -o {}/best.parquet", ("U", "U x N"), ("U",)),
    Step("serve, a history", "", ("N",), ("N",)),
    Step("finetune ease", "finetune ease {}/data -o {}/ease", ("U", "N^3"), ("U", "N^2")),
    Step("finetune itemknn", "finetune itemknn {}/data -o {}/itemknn", ("M",), ("M",)),
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
    for key, title in (("processor_seconds", "processor time"), ("peak_mib", "peak memory")):
        heading = [f"{s}x" for s in scales]
        lines += [f"| step: {title} | grows with | {' | '.join(heading)} | a, b | 100 M users, 10 M items |"]
        lines += ["|---" * (4 + len(scales)) + "|"]
        for step in STEPS:
            values = {scale: rows[step.name, scale][key] for scale in scales}
            terms = step.memory if key == "peak_mib" else step.seconds
            noise = NOISE[key] if step.words or key == "peak_mib" else NOISE_OF_A_CALL
            shown_as = _memory if key == "peak_mib" else _seconds
            rates, whole = _carried(values, terms, sizes, noise)
            slopes = ", ".join(f"{_rate(rate, key)} {term}" for term, rate in rates.items())
            cells = [step.name, ", ".join(terms), *map(shown_as, values.values())]
            cells += [slopes or "-", shown_as(whole) if rates else "-"]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def _carried(
    values: dict[int, float], terms: tuple[str, ...], sizes: dict[int, dict], noise: float
) -> tuple[dict[str, float], float]:
    """The cost of one more of each term that is above the noise, and the terms' cost of the large shop."""
    *_, first, middle, last = [0, 0, *values]
    if len(values) < 1 + len(terms):
        return {}, 0.0
    drivers = {term: PRODUCTS.get(term, lambda size, term=term: size[term]) for term in terms}
    grown = {term: {scale: driver(size) for scale, size in sizes.items()} for term, driver in drivers.items()}
    linear = grown[terms[0]]

    def slope(of: dict[int, float], one: int, other: int) -> float:
        return (of[other] - of[one]) / (linear[other] - linear[one])

    rates = {terms[0]: slope(values, middle, last)}
    if len(terms) > 1:
        product = grown[terms[1]]
        bend = slope(values, middle, last) - slope(values, first, middle)
        more = bend / (slope(product, middle, last) - slope(product, first, middle))
        if more * product[last] >= noise:
            rates = {
                terms[0]: slope(values, middle, last) - more * slope(product, middle, last),
                terms[1]: more,
            }
    rates = {term: rate for term, rate in rates.items() if rate * grown[term][last] >= noise}
    return rates, sum(rate * drivers[term](LARGE) for term, rate in rates.items())


def _rate(rate: float, key: str) -> str:
    """The cost of one more.

    >>> _rate(2.5e-3, "processor_seconds"), _rate(2.5e-9, "processor_seconds"), _rate(0.001, "peak_mib")
    ('2.5 ms a', '2.5 ns a', '1,049 bytes a')
    """
    if key == "peak_mib":
        return f"{rate * 2**20:,.0f} bytes a"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
        if rate >= size:
            return f"{rate / size:.3g} {unit} a"
    return f"{rate / 1e-12:.3g} ps a"


def _memory(mib: float) -> str:
    return f"{mib:,.0f} MiB" if mib < 10_240 else f"{mib / 1024:,.0f} GiB"


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
