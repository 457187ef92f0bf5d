"""A disk without space: every command that writes says so, names what it could not write, and leaves no half-written file."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from linguarec import cli
from linguarec.arrays import save_array
from linguarec.disk_errors import disk_error
from linguarec.errors import OutputError
from linguarec.files import writing_file

# Runs command lines in one process, each with its own limit of the size of a file. Python ignores SIGXFSZ, so that a write
# beyond the limit fails with EFBIG, as a write on a full disk does with ENOSPC.
LIMITED = """
import contextlib, io, json, resource, sys
from linguarec.cli import main

shown = []
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
for limit, words in json.loads(sys.argv[1]):
    error = io.StringIO()
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    try:
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            main(words)
    except SystemExit as stop:
        shown.append([stop.code, error.getvalue()])
    except BaseException as other:
        shown.append([repr(other), error.getvalue()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
print(json.dumps(shown))
"""
TRAINING = ["--training.max-epochs", "1", "--training.accelerator", "cpu", "--transformer.layers", "1"]
SAVING = """
import resource, sys
import linguarec

recommender = linguarec.load_model(sys.argv[1])
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
for limit in map(int, sys.argv[3:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    try:
        recommender.save(sys.argv[2])
    except linguarec.errors.OutputError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
"""


def run_script(script: str, *words: str) -> str:
    source = str(Path(cli.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_commands_without_space(shop: Path, runs: dict[str, Path], backbone: str, tmp_path: Path) -> None:
    out = str(tmp_path / "outLIMIT")
    limited: list[tuple[int, list[str]]] = [
        (limit, [word.replace("LIMIT", str(limit)) for word in words])
        for words, limits in (
            (["finetune", "sasrec", str(shop), "-o", out, *TRAINING], (100, 6_000, 60_000, 400_000)),
            (["convert", str(runs["unisrec"]), "-o", f"{out}.pth"], (100, 3_000)),
            (["convert", str(runs["recformer"]), "-o", f"{out}.pth"], (3_000,)),
            (["encode", str(shop), "--encoder", backbone, "--name", "more"], (50, 1_000)),
            (["tokenize", str(shop), "--backbone", backbone, "--name", "more"], (50, 500)),
            (
                ["quantize", str(shop), "--features", "words", "--subvectors", "4", "--centroids", "8", "--name", "q"],
                (300,),
            ),
            (["evaluate", str(runs["vqrec"]), str(shop), "--no-plots"], (100,)),
            (["export", str(shop), "-o", out], (100,)),
        )
        for limit in limits
    ]
    shown = json.loads(run_script(LIMITED, json.dumps(limited)).splitlines()[-1])
    wrong = [
        (limit, words[:2], code, error[-600:])
        for (limit, words), (code, error) in zip(limited, shown, strict=True)
        if code != 2 or "There is no space left for " not in error or "Traceback" in error
    ]
    assert wrong == []
    assert not [file for file in tmp_path.rglob("*") if file.name.endswith((".partial", ".pth"))]
    assert not list(shop.rglob("*.partial"))


def test_saving_without_space(runs: dict[str, Path], tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in runs["unisrec"].iterdir() if file.is_file()}
    errors = run_script(SAVING, str(runs["unisrec"]), str(tmp_path / "new"), "100", "3000", "8000").splitlines()
    assert len(errors) == 3
    assert all(error.startswith("There is no space left for ") for error in errors), errors
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())
    assert before == {file.name: file.read_bytes() for file in runs["unisrec"].iterdir() if file.is_file()}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("100000 requested and 496 written"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 640 vs 534"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_errors_of_libraries(error: Exception, tmp_path: Path) -> None:
    assert disk_error(error) is not None
    with (
        pytest.raises(OutputError, match=f"^There is no space left for {tmp_path / 'file'}"),
        writing_file(tmp_path / "file"),
    ):
        raise error
    assert not list(tmp_path.iterdir())


def test_a_read_only_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=f"^Cannot write {tmp_path / 'file'}: Read-only"),
        writing_file(tmp_path / "file"),
    ):
        raise OSError(errno.EROFS, "Read-only file system")


def test_other_errors_stay(tmp_path: Path) -> None:
    for error in (
        RuntimeError("shapes differ"),
        ValueError("x"),
        OSError(errno.EIO, "Input/output error", "elsewhere"),
    ):
        assert disk_error(error) is None
        with pytest.raises(type(error)), writing_file(tmp_path / "file"):
            raise error
    assert disk_error(torch.cuda.OutOfMemoryError("CUDA out of memory")) is None


def test_arrays_that_fit_into_a_buffer(tmp_path: Path) -> None:
    """`np.save` loses up to 4 KiB without an error; so no module calls it."""
    source = Path(cli.__file__).parent
    calls = [file.name for file in source.rglob("*.py") if re.search(r"\bnp\.save\(|\.tofile\(", file.read_text())]
    assert calls == []
    for array in (
        np.arange(300.0),
        np.zeros((0, 4), np.float32),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.int64(3),
    ):
        save_array(tmp_path / "a.npy", array)
        np.save(tmp_path / "b.npy", array)
        assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
