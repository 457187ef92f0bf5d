"""The examples run as they stand, and give what they promise."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.nn.shape import CatalogueShape

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = EXAMPLES / "new-items.ipynb"


def cells() -> list[dict[str, Any]]:
    """The code cells of the notebook."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(script: str | Path, folder: Path, *words: str) -> Any:
    """The JSON in the last line that a script prints; it runs in `folder`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(script), *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_committed_outputs_are_of_one_run_from_top_to_bottom() -> None:
    assert [cell["execution_count"] for cell in cells()] == list(range(1, len(cells()) + 1))
    outputs = json.dumps([cell["outputs"] for cell in cells()], ensure_ascii=False).replace("\\n", "\n")
    assert "Recycled lunch box" in outputs
    assert not re.findall(r"(?<![\w<.])/(?:home|root|tmp|usr|var|opt|work|mnt|Users)/|[A-Z]:\\\\", outputs)
    assert {output["output_type"] for cell in cells() for output in cell["outputs"]} <= {
        "execute_result",
        "display_data",
        "stream",
    }


@pytest.mark.slow
def test_the_notebook_recommends_an_item_that_nobody_clicked(tmp_path: Path) -> None:
    code = ["".join(cell["source"]) for cell in cells()]
    result = """
import json
print(json.dumps({
    "clicked": bool(clicks.item_id.isin(["new-1"]).any()),
    "recall@10": {name: found["recall@10"]["mean"] for name, found in tested.systems.items()},
    "similar": [item.raw_id for item in similar],
    "best": best.to_dict("records"),
}))
"""
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join([*code, result]), encoding="utf-8")
    found = run(script, tmp_path)
    recall = found["recall@10"]
    assert recall["unisrec"] > 3 * recall["popularity"]
    assert recall["unisrec"] > 3 * recall["chance"]
    styles = [int(raw_id.removeprefix("item-")) // 8 for raw_id in found["similar"]]
    assert styles == [0, 0, 0]  # rustic, as the item itself
    assert not found["clicked"]
    ranks = {row["raw_id"]: row["rank"] for row in found["best"]}
    assert ranks["new-1"] <= 10
    following = [raw_id for raw_id in ranks if raw_id != "new-1" and int(raw_id.removeprefix("item-")) // 8 == 1]
    assert len(following) >= 5  # of the eight eco items


def histories(*rows: list[int]) -> SequenceBatch:
    """A batch of histories of item rows; the target of each place is the item after it."""
    lengths = [len(row) for row in rows]
    flat, zeros = torch.tensor([item for row in rows for item in row]), torch.zeros(len(rows), dtype=torch.long)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    positions = torch.cat([torch.arange(length) for length in lengths])
    targets = torch.cat([torch.tensor([*row[1:], -1]) for row in rows])
    return SequenceBatch(flat, offsets, positions, targets, zeros, zeros)


def test_the_network_of_ones_own_family_computes_its_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("own_family_model", EXAMPLES / "own_family" / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "own_family_model", module)  # where dataclasses look for the types of their fields
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    network = module.DecayedMean(module.DecayConfig(hidden_size=4), CatalogueShape(6, feature_width=5))
    items = ItemBatch(torch.arange(6), torch.zeros(6, dtype=torch.long), torch.randn(6, 5))
    vectors = network.item_inputs(items)
    together = network.queries(histories([3, 1], [0, 2, 5]), vectors)
    sums = torch.stack([vectors[0], vectors[2] + vectors[0] / 2, vectors[5] + vectors[2] / 2 + vectors[0] / 4])
    torch.testing.assert_close(together[2:], torch.nn.functional.normalize(network.following(sums), dim=-1))
    torch.testing.assert_close(together[:2], network.queries(histories([3, 1]), vectors))  # alone as in a batch
    torch.testing.assert_close(together[2:4], network.queries(histories([0, 2]), vectors))  # no look-ahead
    network.finetune_loss(histories([3, 1], [0, 2, 5]), items).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


@pytest.mark.slow
def test_a_family_of_ones_own_beats_popularity(tmp_path: Path) -> None:
    found = run(EXAMPLES / "own_family" / "run.py", tmp_path, "shop")
    recall = found["recall@10"]
    assert recall["decay"] > 1.25 * recall["popularity"] > 1.25 * recall["chance"]
    assert recall["decay"] < found["best_possible"]
    assert len(set(found["recommended"])) == 5
    assert json.loads((tmp_path / "shop" / "run" / "config.json").read_text(encoding="utf-8"))["model"] == "decay"
