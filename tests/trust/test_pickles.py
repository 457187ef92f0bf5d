"""Pickles of a few bytes that would hang the program, take all memory, or run commands."""

import io
import logging
import subprocess
import time
from pathlib import Path

import pytest
import torch
from hostile import archive, opcodes_of, pickled

from linguarec.errors import CheckpointMismatchError
from linguarec.opcodes import DEEPEST, check_opcodes
from linguarec.unpickling import LARGEST_GROWTH, LEGACY_START, MOST_NAMES, unpickle

STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuJ"


def tensor(length: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """The opcodes of a tensor over the storage 0."""
    storage = STORAGE + length.to_bytes(4, "little") + b"tQ"
    arguments = b"".join(map(opcodes_of, (0, size, stride, False)))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + arguments + b"NtR"


SMALL = {
    "nested lists": (pickled(b"]" * 900 + b"a" * 899), "nest deeper than 100"),
    "nested tuples": (pickled(b")" + b"\x85" * 900), "nest deeper than 100"),
    "nested marks": (pickled(b"(" * 400 + b"t" * 400), "nest deeper than 100"),
    "nested dictionaries": (pickled(b"}" + b"K\x01}" * 400 + b"s" * 400), "nest deeper than 100"),
    "nested states": (pickled(b"cargparse\nNamespace\n)R" * 300 + b"b" * 299), "nest deeper than 100"),
    "each tuple twice in the next": (
        pickled(b"}" + b")" + b"2\x86" * 90 + b"K\x01s"),
        "hold more than 20,000,000 values",
    ),
    "each list twice in the next, filled later": (
        pickled(
            b"".join(b"]q" + bytes([k]) + b"0" for k in range(60)),
            b"".join(b"h" + bytes([k]) + b"(h" + bytes([k + 1]) + b"2e0" for k in range(59)),
            b"h\0",
        ),
        "hold more than 20,000,000 values",
    ),
    "a list in itself": (pickled(b"]q\0h\0a"), "holds itself"),
    "two lists in each other": (pickled(b"]q\0]q\x01h\0ah\0h\x01a"), "holds itself"),
    "a memo of 2^31": (pickled(b"K\x01r" + (2**31 - 1).to_bytes(4, "little")), "value number 2,147,483,647 after"),
    "a memo of 2^40 in digits": (
        pickled(b"K\x01p" + str(2**40).encode() + b"\n"),
        "value number 1,099,511,627,776 after",
    ),
    "bytes of 2^40": (pickled(b"\x8e" + (2**40).to_bytes(8, "little")), "expected 1099511627776 bytes"),
    "text of 2^31": (pickled(b"X" + (2**31 - 1).to_bytes(4, "little")), "expected 2147483647 bytes"),
    "no mark": (pickled(b"K\x01e"), "a mark that was not set"),
    "nothing to take": (pickled(b"a"), "take more values than there are"),
    "names": (
        pickled(b"(" + b"".join(b"ca\nn%d\n" % number for number in range(MOST_NAMES + 1)) + b"l"),
        f"names more than {MOST_NAMES:,} classes",
    ),
}


@pytest.mark.parametrize("kind", ["zip", "stream"])
@pytest.mark.parametrize("name", SMALL)
def test_a_small_pickle_that_would_grow_is_refused_at_once(name: str, kind: str, tmp_path: Path) -> None:
    data, reason = SMALL[name]
    file = tmp_path / "file.pth"
    if kind == "zip":
        archive(file, data)
    else:
        whole = io.BytesIO()
        torch.save(1, whole, _use_new_zipfile_serialization=False)
        file.write_bytes(whole.getvalue().replace(b"\x80\x02K\x01.", data, 1))
        assert file.read_bytes().startswith(LEGACY_START)
    started = time.perf_counter()
    with pytest.raises(CheckpointMismatchError, match=rf"{file} cannot be read(.|\n)*{reason}"):
        unpickle(file)
    assert time.perf_counter() - started < 2


def test_tensors_may_share_storages_but_not_grow(tmp_path: Path) -> None:
    """1.9 MB that would become 36 GB: one storage, viewed in whole by thousands of tensors."""
    length = 450_000
    views = [tensor(length, (length,), (1,)), tensor(length, (length,), (0,)), tensor(length, (1, length), (0, 0))]
    for view in views:
        file = archive(tmp_path / "file.pth", pickled(b"(", view * 2000, b"l"), {"0": bytes(4 * length)})
        assert file.stat().st_size < 2_200_000
        with pytest.raises(CheckpointMismatchError, match=f"more than {LARGEST_GROWTH} times as large as the file"):
            unpickle(file)
    few = archive(tmp_path / "file.pth", pickled(b"(", views[0] * 4, b"l"), {"0": bytes(4 * length)})
    assert [len(each) for each in unpickle(few).content] == [length] * 4
    for size in ((2**40, 2**40), (2**62,) * 20, (1,) * 10_000):
        huge = archive(tmp_path / "file.pth", pickled(tensor(4, size, (0,) * len(size))), {"0": bytes(16)})
        with pytest.raises(CheckpointMismatchError, match="cannot be read"):
            unpickle(huge)


def test_depth_is_counted_as_it_is() -> None:
    for depth, allowed in ((DEEPEST, True), (DEEPEST + 1, False)):
        stream = io.BytesIO(pickled(b"]" * depth + b"a" * (depth - 1)))
        if allowed:
            check_opcodes(stream)
            assert stream.read() == b""
        else:
            with pytest.raises(ValueError, match="deeper"):
                check_opcodes(stream)


def test_a_state_dict_of_many_tensors_passes_quickly(tmp_path: Path) -> None:
    torch.save({f"layer{number}.weight": torch.zeros(2) for number in range(5000)}, tmp_path / "file.pth")
    started = time.perf_counter()
    assert len(unpickle(tmp_path / "file.pth").content) == 5000
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("protocol", [2, 4])
def test_commands_are_refused_under_the_names_of_either_python(protocol: int, tmp_path: Path) -> None:
    torch.save({"run": subprocess.Popen}, tmp_path / "file.pth", pickle_protocol=protocol)
    with pytest.raises(CheckpointMismatchError, match=r"refused: its pickle names subprocess\.Popen"):
        unpickle(tmp_path / "file.pth")
    for name in (b"commands\ngetoutput", b"posix\nsystem", b"__builtin__\nexecfile", b"os\npopen"):
        with pytest.raises(CheckpointMismatchError, match="refused: its pickle names"):
            unpickle(archive(tmp_path / "file.pth", pickled(b"c" + name + b"\n")))


def test_any_name_that_checkpoints_do_not_hold_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    content = {"handler": logging.FileHandler, "timer": time.sleep, "hub": torch.hub.load}
    torch.save({**content, "x": torch.ones(1)}, tmp_path / "file.pth")
    assert unpickle(tmp_path / "file.pth").content["x"].tolist() == [1]
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith(
        f"{tmp_path / 'file.pth'} names 'logging.FileHandler', 'time.sleep', 'torch.hub.load', which"
    )
    assert "Nothing of it was run" in message


def test_names_of_known_checkpoints_are_not_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import argparse
    from collections import OrderedDict, defaultdict

    import numpy as np

    config = argparse.Namespace(score=np.float64(0.5), table=np.ones(3), device=torch.device("cpu"), kind=torch.float32)
    content = {"state_dict": OrderedDict(a=torch.nn.Parameter(torch.ones(2))), "config": config, "seen": {1, 2}}
    torch.save({**content, "counts": defaultdict(int), "size": torch.Size([2])}, tmp_path / "file.pth")
    unpickle(tmp_path / "file.pth")
    for name in (b"recbole.config.configurator\nConfig", b"recbole.utils.enum_type\nModelType", b"unisrec\nUniSRec"):
        unpickle(archive(tmp_path / "other.pth", pickled(b"c" + name + b"\n")))
    assert not caplog.records
