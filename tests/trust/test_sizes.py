"""Files that would hang the program or take all memory are refused in one sentence."""

import os
import socket
from pathlib import Path

import pytest

from linguarec.errors import CheckpointMismatchError, DataFormatError
from linguarec.regular import check_regular


def test_a_fifo_a_device_and_a_socket_are_refused_before_they_are_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as served:
        served.bind("socket")
    for name, kind in {"fifo": "a FIFO", "socket": "a socket", "/dev/zero": "a device"}.items():
        with pytest.raises(DataFormatError, match=f"{name} is {kind}, not a regular file"):
            check_regular(Path(name), DataFormatError)


def test_files_folders_links_and_nothing_pass(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link", ".", "nothing", "file/below"):
        check_regular(tmp_path / name, CheckpointMismatchError)
