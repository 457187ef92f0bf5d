"""What known items pay for the new ones of a blend: known valid targets, with new items scored as chosen and like the others.

python bench/price_of_new_items.py BLEND ...

Ranked without the history, user by user, with the 95 % interval of the difference by the paired bootstrap. The choice was made
on these cases too, but on other items than those that are new here.
"""

import argparse
from pathlib import Path

import numpy as np

from linguarec.data.dataset import PreparedDataset
from linguarec.data.splits import evaluation_cases
from linguarec.evaluation.case_scores import Part
from linguarec.evaluation.intervals import paired_difference
from linguarec.evaluation.report import Table
from linguarec.ranking.sums import SumRanker
from linguarec.recommender import Recommender
from linguarec.runs.settings import read_settings
from linguarec.runs.tables import plain_console, show_table

METRICS = ("recall@10", "ndcg@10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("blends", type=Path, nargs="+", help="runs of `blend`")
    rows = []
    for run in parser.parse_args().blends:
        settings, opened = read_settings(run), Recommender.load(run)
        chosen = opened.snapshot.exact
        assert isinstance(chosen, SumRanker)
        dataset = PreparedDataset.open(settings["data"])
        cases = evaluation_cases(dataset.sequences, dataset.roles(settings["split"]), "valid")
        cases = cases.select(np.flatnonzero(~np.isin(cases.targets, chosen.new.rows)))
        rankers = (SumRanker(chosen.parts, chosen.weights), chosen)
        plain, paid = (
            Part.of(opened.scorer, opened.snapshot.inputs, ranker).rank(cases, None)["excluded"].per_user([10])
            for ranker in rankers
        )
        for metric in METRICS:
            found = paired_difference(paid[metric], plain[metric])
            rows.append(
                [
                    f"{run.name}, {len(cases):,} cases",
                    metric,
                    *(f"{values[metric].mean():.4f}" for values in (plain, paid)),
                    f"{found.difference:+.4f} ({found.low:+.4f} to {found.high:+.4f})",
                ]
            )
    show_table(
        plain_console(), Table(["blend", "", "like the others", "as chosen", "difference"], rows), "known targets"
    )


if __name__ == "__main__":
    main()
