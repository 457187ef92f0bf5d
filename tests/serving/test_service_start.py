"""What a service loads before it answers: nothing of trainings, compilers or text encoders."""

import subprocess
import sys
from pathlib import Path

import pytest

RUNS = Path(__file__).parents[1] / "fixtures" / "runs"
HEAVY = (
    "lightning",
    "torchmetrics",
    "torch._dynamo",
    "transformers",
    "sentence_transformers",
    "duckdb",
    "ibis",
    "faiss",
)


@pytest.mark.parametrize("name", ["sasrec-text", "unisrec", "vqrec"])
def test_opening_a_run_loads_nothing_heavy(tmp_path: Path, name: str):
    script = f"""
import sys
from pathlib import Path
import linguarec.serving.server
from linguarec.serving.live import Live
Live.open(Path({str(RUNS / name)!r}), {str(tmp_path / "state.sqlite")!r})
print([name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
