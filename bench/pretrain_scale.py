"""Pre-training at the papers' size: 1.36 M users, 447 k items, 14 M interactions, generated.

    python bench/pretrain_scale.py FOLDER [--scale 1] [--models unisrec,vqrec] [--steps 200] [--output FILE]

Writes the corpus under FOLDER (once), measures some hundred steps of each model in a process of its own, and says how long 300
epochs would take here. The corpus is random: only speed and memory mean anything.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from corpus import generate_corpus

HERE = Path(__file__).parent
EPOCHS = 300  # as published

MEASURE = """
import json, sys
from dataclasses import asdict
from pathlib import Path
sys.path.insert(0, {bench!r})
from pretrain import measure, open_domains
domains = open_domains({model!r}, [Path(path) for path in {folders!r}], None, None)
print(json.dumps(asdict(measure({model!r}, domains, {steps}, {targets}, {device!r}))))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the papers' users, items and interactions")
    parser.add_argument("--models", default="unisrec,vqrec")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--targets-per-step", type=int, default=2048)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "pretrain-scale.json")
    arguments = parser.parse_args()

    folders = [str(path) for path in generate_corpus(arguments.folder, arguments.scale)]
    results: list[dict[str, Any]] = []
    print(f"| model | targets/s | tokens/s | step | peak memory | epoch | {EPOCHS} epochs |")
    print("|---|---|---|---|---|---|---|")
    for model in arguments.models.split(","):
        code = MEASURE.format(
            bench=str(HERE),
            model=model,
            folders=folders,
            steps=arguments.steps,
            targets=arguments.targets_per_step,
            device=arguments.device,
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        result = json.loads(done.stdout.splitlines()[-1])
        epoch = result["targets_per_epoch"] / result["targets_per_second"]
        results.append({**result, "epoch_seconds": epoch, "hours_of_300_epochs": epoch * EPOCHS / 3600})
        print(
            f"| {model} | {result['targets_per_second']:,.0f} | {result['tokens_per_second']:,.0f} "
            f"| {result['seconds_per_step'] * 1e3:.0f} ms | {result['peak_memory_gib']} GiB | {epoch / 60:,.1f} min "
            f"| {epoch * EPOCHS / 3600:,.0f} h |"
        )
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
