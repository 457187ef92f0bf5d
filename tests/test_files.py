"""Writing beside and renaming: which errors are the output's fault."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from linguarec.errors import OutputError
from linguarec.files import writing_file, writing_folder


@pytest.mark.parametrize("writing", [writing_file, writing_folder])
def test_an_error_of_reading_a_source_is_none_of_the_output(tmp_path: Path, writing: Any) -> None:
    with pytest.raises(FileNotFoundError), writing(tmp_path / "out"):
        (tmp_path / "source").read_bytes()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writing", [writing_file, writing_folder])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_errors_of_writing(tmp_path: Path, writing: Any, number: int) -> None:
    message = "disk.*is full" if number == errno.ENOSPC else "Cannot write .*out"
    with pytest.raises(OutputError, match=message), writing(tmp_path / "out"):
        raise OSError(number, os.strerror(number))
    with pytest.raises(OutputError, match=message), writing(tmp_path / "out") as temporary:
        raise OSError(number, os.strerror(number), str(temporary / "part"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writing", [writing_file, writing_folder])
def test_a_folder_that_is_a_file(tmp_path: Path, writing: Any) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"Cannot write .*out"), writing(tmp_path / "file" / "out"):
        pass
