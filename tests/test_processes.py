"""Processes that torchrun starts: each part is worked on once, and the writer gets all of them in order."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from linguarec.processes import ALONE, Processes, is_main_process, started_together

SCRIPT = """
import json, os, sys
from linguarec.processes import Processes, is_main_process, started_together

processes = Processes.here()
assert started_together() == processes.count == 3 and is_main_process() == processes.is_writer == (processes.rank == 0)
found = {}
for count in range(8):
    worked = []
    parts = map(lambda part: worked.append(part) or (part, processes.rank), processes.share(range(count)))
    found[count] = list(processes.gathered(parts)), worked
every = processes.of_writer(lambda: 7)
with open(f"{sys.argv[1]}/{processes.rank}.json", "w") as file:
    json.dump([every, found], file)
"""


def test_one_process_does_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Processes.here(), started_together(), is_main_process()) == (ALONE, 1, True)
    assert list(ALONE.share(range(3))) == list(ALONE.gathered(range(3))) == [0, 1, 2]
    assert ALONE.of_writer(lambda: 7) == 7
    # Variables of a scheduler, not of torchrun.
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (started_together(), is_main_process()) == (1, True)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert (started_together(), is_main_process()) == (4, False)


@pytest.mark.slow
def test_three_processes_share_parts_without_gap_and_overlap(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    command += [str(tmp_path / "script.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert [every for every, _ in ranks] == [7, 7, 7]
    for count in range(8):
        gathered, worked = zip(*(found[str(count)] for _, found in ranks), strict=True)
        assert gathered[0] == [[part, part % 3] for part in range(count)]
        assert gathered[1] == gathered[2] == []
        assert worked == tuple(list(range(rank, count, 3)) for rank in range(3))
