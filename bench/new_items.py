"""Which model ranks new items best? Trained runs and models that never saw the data, on the same held-out items, user by user.

python bench/new_items.py DATA --tuned RUN ... --zero-shot PRETRAINED ... --baseline RUN -o bench/results/new-items.json

The targets are those of the split held-out-items: items that occur in no training sequence. A difference is that of the
means over users, with its 95 % interval by the paired bootstrap; p is corrected for the number of systems (Holm).
"""

import argparse
import json
from contextlib import nullcontext
from pathlib import Path

import torch

from linguarec.data.dataset import PreparedDataset
from linguarec.data.splits import evaluation_cases
from linguarec.devices import device_for
from linguarec.evaluation.comparison import compared, differences, differences_table, protocols_table
from linguarec.evaluation.evaluate import EvaluationResult
from linguarec.run_items import items_of_run
from linguarec.runs.tables import plain_console, show_table

KS = (10, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--tuned", type=Path, nargs="*", default=[], help="runs of `finetune --split held-out-items`")
    parser.add_argument("--zero-shot", type=Path, nargs="*", default=[], help="models that never saw the data")
    parser.add_argument("--baseline", type=Path, help="the one that the others are compared with; by default the first")
    parser.add_argument("--bf16", action="store_true", help="rank in bf16: faster, and less exact")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()

    dataset = PreparedDataset.open(arguments.data)
    cases = evaluation_cases(dataset.sequences, dataset.roles("held-out-items"), "test")
    place = device_for(None)
    results: dict[str, list[EvaluationResult]] = {}
    names = {}
    for run in (*arguments.tuned, *arguments.zero_shot):
        zero_shot = run in arguments.zero_shot
        names[run] = f"{run.name}{', zero-shot' if zero_shot else ''}"
        with torch.autocast(place.type, torch.bfloat16) if arguments.bf16 else nullcontext():
            results[names[run]] = [items_of_run(run, dataset, zero_shot, {}, place).rank(cases)["kept"]]
    baseline = names[arguments.baseline] if arguments.baseline else next(iter(results))

    systems = {name: compared(found, KS) for name, found in results.items()}
    tests = differences(results, baseline, ["recall@10", "ndcg@10"])
    console = plain_console()
    show_table(
        console,
        protocols_table({"kept": systems}, {}, {}, ["recall@10", "ndcg@10"]),
        f"{dataset.name}: {len(cases):,} targets among held-out items",
    )
    show_table(console, differences_table(tests, baseline), "paired differences, p corrected by Holm")
    if arguments.output is not None:
        summary = {"systems": {name: system.to_dict() for name, system in systems.items()}, "baseline": baseline}
        arguments.output.write_text(json.dumps({**summary, "differences": tests}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
