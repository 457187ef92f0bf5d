"""Writing beside and renaming: which errors are the output's fault."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from linguarec.errors import OutputError
from linguarec.files import Marker, writing_file, writing_folder


@pytest.mark.parametrize("writing", [writing_file, writing_folder])
def test_an_error_of_reading_a_source_is_none_of_the_output(tmp_path: Path, writing: Any) -> None:
    with pytest.raises(FileNotFoundError), writing(tmp_path / "out"):
        (tmp_path / "source").read_bytes()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writing", [writing_file, writing_folder])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_errors_of_writing(tmp_path: Path, writing: Any, number: int) -> None:
    message = "no space left for" if number in (errno.ENOSPC, errno.EDQUOT) else "Cannot write .*out"
    with pytest.raises(OutputError, match=message), writing(tmp_path / "out"):
        raise OSError(number, os.strerror(number))
    with pytest.raises(OutputError, match=message), writing(tmp_path / "out") as temporary:
        raise OSError(number, os.strerror(number), str(temporary / "part"))
    assert list(tmp_path.iterdir()) == []


def test_only_what_was_written_by_us_is_replaced(tmp_path: Path) -> None:
    precious, file, ours, same = (tmp_path / name for name in ("precious", "file", "ours", "same"))
    ours_is = Marker("manifest.json", "fingerprint")
    for folder, name in ((precious, "manifest.json"), (ours, "manifest.json"), (same, "a.csv")):
        folder.mkdir()
        (folder / name).write_text('{"fingerprint": "x"}' if folder == ours else "{}")
    file.write_text("old")
    for marker in (ours_is, None):
        with (
            pytest.raises(OutputError, match=r"precious (has no|holds) manifest.json.*--overwrite does not replace"),
            writing_folder(precious, True, marker) as folder,
        ):
            (folder / "a.csv").write_text("new")
        with (
            pytest.raises(OutputError, match="file is a file, which is never replaced by a folder"),
            writing_folder(file, True, marker),
        ):
            pass
        with pytest.raises(OutputError, match=r"file is a file[^-]*$"), writing_folder(file, False, marker):
            pass  # --overwrite, which would be refused next, is not advised
    for path, marker in ((ours, ours_is), (same, None)):
        with writing_folder(path, True, marker) as folder:
            (folder / "a.csv").write_text("new")
    found = {
        str(path.relative_to(tmp_path)): path.read_text() for path in sorted(tmp_path.rglob("*")) if path.is_file()
    }
    assert found == {"precious/manifest.json": "{}", "file": "old", "ours/a.csv": "new", "same/a.csv": "new"}


@pytest.mark.parametrize("writing", [writing_file, writing_folder])
def test_a_folder_that_is_a_file(tmp_path: Path, writing: Any) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "out", tmp_path / "file" / "in" / "out"):
        with (
            pytest.raises(OutputError, match=rf"Cannot write {out}: {tmp_path}/file is a file, not a folder"),
            writing(out),
        ):
            pass
