"""Commands behind torchrun: the files of one process, one writer, a killed process, two launchers as two machines."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from linguarec import cli
from linguarec.commands.finetune import finetune
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import SettingsError
from linguarec.nn.encoders import TransformerConfig
from linguarec.training.settings import TrainingSettings

# Small parts, so that each process of a tiny folder has some; then the commands of the first argument, one after the other.
SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path

from linguarec import cli
from linguarec.commands import recommend, tokenize
from linguarec.evaluation import evaluate
from linguarec.processes import ALONE
from linguarec.text import encoders, shards

recommend.HISTORIES_AT_ONCE = tokenize.ITEMS_A_PIECE = 7
evaluate.rank_by_protocol.__defaults__ = (None, 100, ALONE, 0)
shards.TOKENS_A_BATCH["cpu"], shards.TOKENS_A_SHARD["cpu"] = 40, 80
{patch}
for words in json.loads(sys.argv[1]):
    try:
        cli.main(words)
    except SystemExit as end:
        assert not end.code, (words, end.code)
"""
KILLED = """
encode_tokens = encoders.TextEncoder.encode_tokens
encoded = 0

def encode_or_die(self, tokens, rows):
    global encoded
    encoded += 1
    if encoded == 4 and os.environ["RANK"] == "{rank}":
        Path({told!r}).write_text(str(time.time()))
        os.kill(os.getpid(), 9)
    return encode_tokens(self, tokens, rows)

encoders.TextEncoder.encode_tokens = encode_or_die
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
HISTORIES = 2  # fewer than processes
SMALL: dict[str, Any] = {"hidden_size": 16, "inner_size": 16, "layers": 1, "dropout": 0.0, "max_length": 20}
QUICK: dict[str, Any] = {"targets_per_step": 200, "max_epochs": 2, "accelerator": "cpu", "precision": "fp32"}


def run(script: Path, commands: Sequence[Sequence[object]], processes: int, patch: str = "") -> Any:
    """The finished process, or launcher of processes, that ran the commands, each with --json."""
    script.write_text(SCRIPT.format(patch=patch))
    launcher = [*TORCHRUN, "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else [sys.executable]
    words = json.dumps([[*map(str, command), "--json"] for command in commands])
    return subprocess.run([*launcher, str(script), words], capture_output=True, text=True, timeout=600, check=False)


def encoding(data: Path, backbone: str) -> list[object]:
    return ["encode", data, "--encoder", backbone, "--precision", "fp32", "--word-drop-draws", 1, "--name", "tiny"]


@pytest.fixture
def trained(shops: list[PreparedDataset], tmp_path: Path) -> Path:
    finetune(
        "sasrec-text",
        shops[0].path,
        tmp_path / "run",
        transformer=TransformerConfig(**SMALL),
        training=TrainingSettings(**QUICK),
    )
    return tmp_path / "run"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def without_seconds(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if "second" not in key}


@pytest.mark.slow
def test_processes_write_the_files_of_one(
    shops: list[PreparedDataset], trained: Path, tiny_backbone: str, tmp_path: Path
) -> None:
    raw_ids = shops[0].raw_item_ids
    lines = [json.dumps({"user": f"u{n}", "history": [raw_ids[n], "unknown"]}) for n in range(HISTORIES)]
    (tmp_path / "some.jsonl").write_text("\n".join(lines) + "\n")
    printed, folders = {}, {}
    for name, processes in (("alone", 1), ("together", 3)):
        folder = folders[name] = tmp_path / name
        shutil.copytree(shops[0].path, folder / "data")
        shutil.copytree(trained, folder / "run")
        data, model = folder / "data", folder / "run"
        every = ["recommend", model, "--for", data, "-k", 5, "-o"]
        few = ["recommend", model, "--histories", tmp_path / "some.jsonl", "--skip-unknown", "-k", 5, "-o"]
        done = run(
            tmp_path / "script.py",
            [
                encoding(data, tiny_backbone),
                ["tokenize", data, "--backbone", tiny_backbone, "--name", "tiny"],
                ["evaluate", model, data, "--fit-repeats", "--no-plots"],
                [*every, folder / "all.parquet", "--seen", "learned"],
                [*every, folder / "all.csv"],
                [*few, folder / "few.jsonl"],
            ],
            processes,
        )
        assert done.returncode == 0, done.stderr
        shown = done.stdout.replace(str(folder), "PLACE")
        printed[name] = [json.loads(line) for line in shown.splitlines() if line.startswith("{")]
        assert len(printed[name]) == 6
        assert done.stdout.count("histories in") == 3  # each message once
        assert not list(folder.rglob("*.partial"))
    for alone, together in zip(printed["alone"], printed["together"], strict=True):
        assert without_seconds(together) == without_seconds(alone)
    assert printed["alone"][0]["distinct_texts"] > 20 and printed["alone"][2]["targets"] > 20
    assert printed["alone"][5]["unknown_ids"] == HISTORIES
    expected, found = (files_of(folder) for folder in folders.values())
    assert found.keys() == expected.keys()
    differing = [file for file in expected if found[file] != expected[file]]
    assert differing == ["run/evaluation/test.json"]  # it has seconds and paths, and was compared above


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_and_the_next_start_goes_on(
    rank: int, shops: list[PreparedDataset], tiny_backbone: str, tmp_path: Path
) -> None:
    data, told = shops[0].path, tmp_path / "killed"
    before = files_of(data)
    patch = KILLED.format(rank=rank, told=str(told))
    done = run(tmp_path / "script.py", [encoding(data, tiny_backbone)], 2, patch)
    assert time.time() - float(told.read_text()) < 30
    assert done.returncode != 0
    assert f"local_rank: {rank}" in done.stderr and "SIGKILL" in done.stderr  # torchrun's own message
    left = files_of(data)
    assert all(left[file] == content for file, content in before.items())
    stored = [file for file in left.keys() - before.keys() if file.endswith(".npy")]
    assert stored and all(file.startswith(".tiny.shards/") for file in stored)
    if rank == 1:
        return  # the next start is tried once, where the writer was killed

    again = run(tmp_path / "script.py", [encoding(data, tiny_backbone)], 2)
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout.splitlines()[-1])
    assert 0 < result["resumed_texts"] < result["distinct_texts"]
    shutil.copytree(data, tmp_path / "alone")
    assert (
        run(tmp_path / "script.py", [[*encoding(tmp_path / "alone", tiny_backbone), "--overwrite"]], 1).returncode == 0
    )
    after, alone = files_of(data), files_of(tmp_path / "alone")
    assert after == alone


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def on_two_machines(script: Path, commands: Sequence[Sequence[object]], patch: str = "") -> list[subprocess.Popen[str]]:
    """Two launchers that meet on this machine, with one process each."""
    script.write_text(SCRIPT.format(patch=patch))
    words = json.dumps([[*map(str, command), "--json"] for command in commands])
    meeting = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
    command = [*TORCHRUN, *meeting, "--rdzv-id=test", "--local-addr=127.0.0.1", str(script), words]
    return [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]


@pytest.mark.slow
def test_two_launchers_work_as_one_process(shops: list[PreparedDataset], tmp_path: Path) -> None:
    data, alone, together = shops[0].path, tmp_path / "alone", tmp_path / "together"
    settings = {f"transformer.{name}": value for name, value in SMALL.items()}
    settings |= {f"training.{name}": value for name, value in {**QUICK, "strategy": "ddp"}.items()}
    words = ["finetune", "sasrec", data, "-o", together, *(f"--{name}={value}" for name, value in settings.items())]
    machines = on_two_machines(tmp_path / "script.py", [words, ["evaluate", together, data, "--no-plots"]])
    expected = finetune(
        "sasrec", data, alone, transformer=TransformerConfig(**SMALL), training=TrainingSettings(**QUICK)
    )
    ended = [machine.communicate(timeout=600) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], ended
    results = [[json.loads(line) for line in out.splitlines() if line.startswith("{")] for out, _ in ended]
    [(trained, evaluated)] = [of_machine for of_machine in results if of_machine]  # one of them has printed
    assert trained["test"] == pytest.approx(expected["test"], abs=1e-6)
    means = {name: found["mean"] for name, found in evaluated["systems"]["sasrec"].items()}
    assert means == pytest.approx(trained["test"], abs=1e-12)
    weights, found = (load_file(folder / "model.safetensors") for folder in (alone, together))
    for name in weights:
        np.testing.assert_allclose(found[name], weights[name], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_killed_process_ends_that_of_another_launcher(
    shops: list[PreparedDataset], tiny_backbone: str, tmp_path: Path
) -> None:
    data, told = shops[0].path, tmp_path / "killed"
    patch = KILLED.format(rank=1, told=str(told))
    machines = on_two_machines(tmp_path / "script.py", [encoding(data, tiny_backbone)], patch)
    ended = [machine.communicate(timeout=600)[1] for machine in machines]
    assert time.time() - float(told.read_text()) < 30
    assert all(machine.returncode for machine in machines)
    assert sum("error: Another one of the 2 processes has ended" in errors for errors in ended) == 1
    assert PreparedDataset.open(data).feature_names == ["words"]
    assert not list(data.rglob("*.partial"))


@pytest.mark.parametrize("name", [name for name, command in cli.COMMANDS.items() if not command.shared])
def test_other_commands_refuse_several_processes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match=f"torchrun started 2 processes, and `linguarec {name}` works in one"):
        cli._check_alone(name)


def test_processes_cannot_share_one_history(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match="--history is one history, which processes cannot share"):
        cli._run(["recommend", str(trained), "--history", "a"])
    with pytest.raises(SettingsError, match="`linguarec describe` works in one: start it without torchrun"):
        cli._run(["describe", str(trained)])
