"""Reading files of torch.save without running what is in them."""

import argparse
import enum
import io
import logging
import os
import pickle
import timeit
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from linguarec.errors import CheckpointMismatchError
from linguarec.unpickling import LEGACY_START, Record, unpickle


class Colour(enum.Enum):
    RED = 1


class Trap:
    """Writes a file when it is made, when its state is set, and when it is given an item."""

    def __init__(self, path):
        self.path = path

    def __setstate__(self, state):
        with open(state["path"], "w"):  # noqa: PTH123
            pass


class Reduced:
    """Pickled as the call of `function`, with a state if there is one."""

    def __init__(self, function, arguments, *state):
        self.parts = (function, arguments, *state)

    def __reduce__(self):
        return self.parts


@pytest.fixture(params=["zip", "stream"])
def save(request, tmp_path):
    """Write an object as torch does now, or as it did before 1.6."""

    def write(content, name="file.pth"):
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=request.param == "zip")
        return tmp_path / name

    return write


def test_plain_values_containers_and_tensors(save):
    table = torch.arange(12.0).view(3, 4)
    content = {
        "numbers": [1, 2.5, None, True, "four", (5, b"six"), {7}, 1 << 80],
        "state_dict": OrderedDict(a=table, b=table.t(), c=table[1:, 2], d=torch.nn.Parameter(table + 1)),
        "types": [torch.tensor([1, 0], dtype=dtype) for dtype in (torch.int64, torch.bool, torch.uint8, torch.float64)],
        "half": [torch.tensor([1.5, -2.0], dtype=dtype) for dtype in (torch.float16, torch.bfloat16)],
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(3.0),
    }
    found = unpickle(save(content))
    assert found.content["numbers"][:5] + found.content["numbers"][7:] == [1, 2.5, None, True, "four", 1 << 80]
    assert type(found.content["state_dict"]) is dict
    for key, tensor in content["state_dict"].items():
        assert torch.equal(found.content["state_dict"][key], tensor)
        assert found.content["state_dict"][key].is_contiguous()
        assert not found.content["state_dict"][key].requires_grad
    for kind in ("types", "half"):
        assert [t.dtype for t in found.content[kind]] == [t.dtype for t in content[kind]]
        assert all(map(torch.equal, found.content[kind], content[kind]))
    assert found.content["empty"].shape == (0, 3)
    assert found.content["scalar"] == 3.0


def test_changing_one_tensor_leaves_its_neighbours_alone(save):
    table = torch.zeros(4)
    found = unpickle(save({"a": table, "b": table[:2]})).content
    found["a"] += 1
    assert found["b"].tolist() == [0, 0]


def test_other_classes_stay_records_that_can_be_looked_into(save):
    config = argparse.Namespace(heads=2, nested=argparse.Namespace(rate=0.1), table=torch.ones(2))
    found = unpickle(save({"config": config, "score": np.float64(0.5), "colour": Colour.RED, "class": Trap}))
    record = found.content["config"]
    assert isinstance(record, Record)
    assert record.name == "argparse.Namespace"
    assert (record.state["heads"], record.state["nested"].state["rate"]) == (2, 0.1)
    assert record.state["table"].tolist() == [1, 1]
    assert "argparse.Namespace, not made" in repr(record)
    assert isinstance(found.content["score"], Record)
    assert issubclass(found.content["class"], Record)
    assert "argparse.Namespace" in found.not_made
    assert not any(name.startswith("torch") or name.endswith("OrderedDict") for name in found.not_made)


@pytest.mark.parametrize("where", ["called", "inside", "state", "key", "class"])
@pytest.mark.parametrize("function", [os.system, exec, open, eval])
def test_a_pickle_that_would_write_a_file_is_refused(save, tmp_path, function, where):
    target = tmp_path / "written"
    code = {exec: f"open({str(target)!r}, 'w')", eval: f"open({str(target)!r}, 'w')", os.system: f"touch {target}"}
    evil = Reduced(function, (str(target), "w") if function is open else (code[function],))
    content = {
        "called": evil,
        "inside": {"state_dict": {"a": torch.ones(2)}, "config": [1, (evil,)]},
        "state": Reduced(argparse.Namespace, (), {"x": evil}),
        "key": {evil: 1},
        "class": {"x": function},
    }
    with pytest.raises(CheckpointMismatchError, match=r"refused: its pickle names .*\. Nothing was run"):
        unpickle(save(content[where]))
    assert not target.exists()


def test_what_is_not_on_the_list_is_not_run_either(save, tmp_path):
    target = tmp_path / "written"
    evil = [
        Reduced(timeit.timeit, (f"open({str(target)!r}, 'w')",)),
        Reduced(logging.FileHandler, (str(target),)),
        Reduced(np.save, (str(target), 1)),
        Reduced(Trap, (str(target),), {"path": str(target)}),
        Trap(str(target)),
        Reduced(getattr, (Trap, "__init__")),
    ]
    found = unpickle(save({"evil": evil, "x": torch.ones(1)}))
    assert all(isinstance(each, Record) for each in found.content["evil"])
    assert found.content["evil"][1].arguments == (str(target),)
    assert found.content["evil"][4].state == {"path": str(target)}
    assert not target.exists()


def archive_of(path, data):
    """A file like that of torch.save whose data.pkl is `data`."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", data)
        archive.writestr("x/data/0", b"\0" * 16)
    return path


STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"


def tensor_pickle(size, stride, offset=0):
    """A pickle of one tensor over a storage of 4 floats."""
    arguments = b"".join(pickle.dumps(each, 2)[2:-1] for each in (offset, size, stride, False))
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + arguments + b"NtR."


def test_a_tensor_stays_within_its_storage(tmp_path):
    assert unpickle(archive_of(tmp_path / "a", tensor_pickle((2, 2), (2, 1)))).content.tolist() == [[0, 0], [0, 0]]
    for size, stride, offset in (
        ((5,), (1,), 0),
        ((2,), (1,), 3),
        ((2, 2), (3, 3), 0),
        ((2,), (-1,), 1),
        ((-1,), (1,), 0),
    ):
        with pytest.raises(CheckpointMismatchError, match="cannot be read as a file"):
            unpickle(archive_of(tmp_path / "a", tensor_pickle(size, stride, offset)))
    with pytest.raises(
        CheckpointMismatchError, match=r"shape \(1000000, 1000000\) has more elements than its storage, 4"
    ):
        unpickle(archive_of(tmp_path / "a", tensor_pickle((10**6, 10**6), (0, 0))))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02carchive\nThing\n}X\x01\0\0\0aK\x01sb.",  # a state set on a class, not on an object
        b"\x80\x02ccollections\nOrderedDict\n}X\x08\0\0\0__init__K\x01sb.",
        b"\x80\x02X\x01\0\0\0a)R.",  # a call of a string
        b"\x80\x02]q\0h\0a.",  # a list that holds itself
        b"\x80\x02K\x01Q.",  # a reference to no storage
        b"\x80\x02h\x07.",  # a memo that was never filled
        b"\x80\x02}",
        b"",
    ],
)
def test_a_senseless_pickle_is_an_error_and_no_crash(tmp_path, data):
    with pytest.raises(CheckpointMismatchError, match="cannot be read as a file"):
        unpickle(archive_of(tmp_path / "file.pth", data))


def test_a_truncated_file(save):
    path = save({"state_dict": {"a": torch.arange(50.0), "b": torch.ones(3)}, "config": argparse.Namespace(a=1)})
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointMismatchError, match=r"file\.pth"):
            unpickle(path)


def test_a_storage_that_is_missing_or_short(tmp_path):
    path = archive_of(tmp_path / "file.pth", tensor_pickle((2,), (1,)).replace(b"0X\x03", b"7X\x03"))
    with pytest.raises(CheckpointMismatchError, match="no item named 'x/data/7'"):
        unpickle(path)
    path = archive_of(tmp_path / "file.pth", tensor_pickle((2,), (1,)).replace(b"cpuK\x04", b"cpuK\x09"))
    with pytest.raises(CheckpointMismatchError, match=r"storage 0 has 16 bytes, expected 9 elements of torch\.float32"):
        unpickle(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no file of torch.save: it begins with b''"),
        (b"user,item\n1,2\n", "is no file of torch.save: it begins with b'user,ite'"),
        (pickle.dumps({"state_dict": {}}), "is no file of torch.save"),
        (LEGACY_START, "cannot be read as a file of torch.save"),
        (b"PK\x03\x04 and no more", "it is cut short"),
    ],
)
def test_a_file_of_another_program(tmp_path, content, message):
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointMismatchError) as error:
        unpickle(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_other_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "file.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointMismatchError, match=r"a zip archive of 1 files with 0 data\.pkl, expected one"):
        unpickle(tmp_path / "file.zip")
    with zipfile.ZipFile(tmp_path / "file.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pickle.dumps([0] * 10_000))
    with pytest.raises(CheckpointMismatchError, match=r"data\.pkl is compressed"):
        unpickle(tmp_path / "file.zip")


def test_a_hostile_header_of_the_old_form(tmp_path):
    target = tmp_path / "written"
    stream = io.BytesIO()
    torch.save({"a": 1}, stream, _use_new_zipfile_serialization=False)
    evil = pickle.dumps(Reduced(os.system, (f"touch {target}",)), 2)
    (tmp_path / "file.pth").write_bytes(LEGACY_START + evil + stream.getvalue()[len(LEGACY_START) :])
    with pytest.raises(CheckpointMismatchError, match="refused"):
        unpickle(tmp_path / "file.pth")
    assert not target.exists()
