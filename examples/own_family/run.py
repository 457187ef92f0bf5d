"""Register the family, train it on a small synthetic shop, compare it with popularity, and recommend.

python run.py FOLDER
"""

import json
import sys
from pathlib import Path

from method import DECAY

import linguarec
from linguarec.data.synthetic import TINY, generate_world
from linguarec.families import FAMILIES

FAMILIES["decay"] = DECAY  # the one line; inside linguarec it stands in families/__init__.py


def main(folder: Path) -> None:
    """Write log, prepared folder and run into `folder`."""
    [shop] = generate_world(seed=0, domains=1, size=TINY)
    shop.write(folder / "log")
    log, items = folder / "log" / "interactions.csv", folder / "log" / "items.csv"
    linguarec.prepare_table(log, items=items, output=folder / "data", k_core=0, catalogue="all")
    linguarec.encode(folder / "data")
    linguarec.finetune("decay", folder / "data", folder / "run")
    tested = linguarec.evaluate(folder / "run", plots=False)

    recommender = linguarec.load_model(folder / "run")
    history = [shop.items[row].raw_id for row in shop.sequences[0]]
    best = recommender.recommend(history, k=5)
    found = {
        "recall@10": {name: round(metrics["recall@10"]["mean"], 4) for name, metrics in tested.systems.items()},
        "best_possible": round(shop.best_possible(10)["recall@10"], 4),
        "recommended": [item.title for item in best],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
