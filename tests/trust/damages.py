"""Damages of the files of a run or of a prepared folder: what a full disk, a careless edit or a mixed-up copy leaves behind.

for damage in damages_of(folder):
    with damaged(folder, damage):
        ...  # open the folder
"""

import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

# The seal of a folder: hashes of its files. It would catch nearly every damage before the reader of the file does, and the
# readers are what is tested here, so it is removed first.
SEAL = "files.json"
DEEP = "[" * 100_000 + "]" * 100_000
OTHER_VALUES: dict[str, str] = {  # as JSON
    "null": "null", "text": '"text"', "empty text": '""', "number": "3", "zero": "0", "negative": "-1", "fraction": "0.5",
    "huge": "1" + 30 * "0", "large": "2147483648", "infinite": "1e999", "NaN": "NaN", "true": "true", "list": "[]",
    "list of lists": "[[1], {}]", "object": "{}", "nested": '{"a": {"b": [1]}}', "surrogate": '"\\ud800"', "path": '"/"',
    "zero byte": '"\\u0000"', "long text": '"' + "x" * 5000 + '"',
}  # fmt: skip


@dataclass(frozen=True)
class Damage:
    """A damage of the file `file` of a folder; `apply` gets its path."""

    file: str
    what: str
    apply: Callable[[Path], object]

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def damages_of(folder: Path) -> Iterator[Damage]:
    """Every damage of every file in a folder, in a fixed order."""
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        name = file.relative_to(folder).as_posix()
        if name == SEAL:
            continue
        kinds = {
            ".npy": arrays, ".npz": archives, ".parquet": tables, ".json": objects, ".safetensors": weights,
        }  # fmt: skip
        for what, apply in [*contents().items(), *kinds.get(file.suffix, lambda file: {})(file).items()]:
            yield Damage(name, what, apply)


@contextmanager
def damaged(folder: Path, damage: Damage) -> Iterator[None]:
    """The folder with the damage; afterwards as it was, without a seal."""
    (folder / SEAL).unlink(missing_ok=True)
    file = folder / damage.file
    whole = file.read_bytes()
    file.unlink()  # a reader of an earlier damage may have mapped the file: that one must not change
    file.write_bytes(whole)
    try:
        damage.apply(file)
        yield
    finally:
        if file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)
        file.write_bytes(whole)


def contents() -> dict[str, Callable[[Path], object]]:
    """Damages of any file."""

    def folder(file: Path) -> None:
        file.unlink()
        file.mkdir()

    def pipe(file: Path) -> None:
        file.unlink()
        os.mkfifo(file)

    def flipped(file: Path) -> None:
        content = bytearray(file.read_bytes())
        for place in range(len(content) // 3, len(content), max(1, len(content) // 7)):
            content[place] ^= 0xFF
        file.write_bytes(content)

    def pickled(file: Path) -> None:
        file.write_bytes(pickle.dumps({"a": [1]}))

    return {
        "missing": Path.unlink,
        "emptied": lambda file: file.write_bytes(b""),
        "cut in half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
        "without its end": lambda file: file.write_bytes(file.read_bytes()[:-3]),
        "flipped bytes": flipped,
        "other text": lambda file: file.write_text("no such thing\n"),
        "a page of the web": lambda file: file.write_text("<html><body>404</body></html>"),
        "a list": lambda file: file.write_text("[1, 2]"),
        "an empty object": lambda file: file.write_text("{}"),
        "deep JSON": lambda file: file.write_text(DEEP),
        "a pickle": pickled,
        "a zip": lambda file: file.write_bytes(b"PK\x03\x04" + b"\0" * 60),
        "a folder": folder,
        "a pipe": pipe,
    }


def changes(array: np.ndarray) -> dict[str, Callable[[np.ndarray], Any]]:
    """Other arrays than this one."""
    found: dict[str, Callable[[np.ndarray], Any]] = {
        name: lambda a, name=name: a.astype(name)
        for name in (
            "int64",
            "int32",
            "uint8",
            "float64",
            "float32",
            "float16",
            "complex64",
            "bool",
            "str",
            "object",
            ">f4",
        )
    }
    found |= {
        "shorter": lambda a: a[:-1],
        "longer": lambda a: np.concatenate([a, a[-1:]]),
        "none": lambda a: a[:0],
        "flat": lambda a: a.ravel(),
        "an axis more": lambda a: a[..., None],
        "one number": lambda a: a.ravel()[0],
        "reversed": lambda a: a[::-1],
        "records": lambda a: np.zeros(len(a), [("x", "i4"), ("y", "f4")]),
        "huge values": lambda a: np.full_like(
            a, np.finfo(a.dtype).max if a.dtype.kind == "f" else np.iinfo(a.dtype).max
        ),
        "negative values": lambda a: -a.astype(np.int64 if a.dtype.kind in "iu" else a.dtype) - 1,
        "zeros": np.zeros_like,
    }
    if array.ndim > 1:
        found |= {"wider": lambda a: np.concatenate([a, a], axis=1), "narrower": lambda a: a[:, 1:]}
        found |= {"no width": lambda a: a[:, :0]}
    if array.dtype.kind == "f":
        found |= {f"all {value}": lambda a, value=value: np.full_like(a, value) for value in (np.nan, np.inf)}
        found |= {
            "a NaN": lambda a: np.where(np.arange(a.size).reshape(a.shape) == a.size - 1, np.nan, a).astype(a.dtype)
        }
    return found


def arrays(file: Path) -> dict[str, Callable[[Path], object]]:
    def damage(change: Callable[[np.ndarray], Any]) -> Callable[[Path], object]:
        return lambda file: np.save(file, change(np.load(file)), allow_pickle=True)

    head = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999, 64), }"
    return {what: damage(change) for what, change in changes(np.load(file)).items()} | {
        "a huge shape": lambda file: file.write_bytes(head.ljust(127) + b"\n" + b"\0" * 64)
    }


def archives(file: Path) -> dict[str, Callable[[Path], object]]:
    with np.load(file) as stored:
        members = {name: stored[name] for name in stored}

    def saving(name: str, value: Any) -> Callable[[Path], object]:
        changed = {key: array for key, array in members.items() if key != name} | (
            {} if value is None else {name: value}
        )
        return lambda file: np.savez(file, **changed)

    found = {}
    for name, array in members.items():
        found[f"without {name}"] = saving(name, None)
        if array.dtype.kind in "iuf":
            found |= {f"{name} {what}": saving(name, change(array)) for what, change in changes(array).items()}
        else:
            found |= {
                f"{name} {what}": saving(name, np.array(text))
                for what, text in texts_of(json.loads(str(array))).items()
            }
            found[f"{name} a number"] = saving(name, np.zeros(3))
    return found


def tables(file: Path) -> dict[str, Callable[[Path], object]]:
    table = pq.read_table(file)
    found: dict[str, pa.Table] = {
        "no rows": table[:0],
        "half of the rows": table[: len(table) // 2],
        "rows twice": pa.concat_tables([table, table]),
        "rows of one group": table.replace_schema_metadata({"text_rules": "strange"}),
        "metadata that is no text": table.replace_schema_metadata({b"text_rules": b"\xff"}),
        "no columns": table.select([]),
    }
    for place, name in enumerate(table.column_names):
        found[f"without {name}"] = table.drop_columns([name])
        found[f"{name} renamed"] = table.rename_columns([f"{n}2" if n == name else n for n in table.column_names])
        found[f"{name} twice"] = table.append_column(name, table[name])
        for what, values in {
            "of numbers": pa.array(np.arange(len(table))),
            "of fractions": pa.array(np.linspace(0, 1, len(table))),
            "of lists": pa.array([["a"]] * len(table)),
            "of bytes": pa.array([b"\xff"] * len(table)),
            "of null": pa.nulls(len(table)),
            "without a value": pa.array([*table[name].to_pylist()[:-1], None], table[name].type),
            "of one value": pa.array([table[name][0].as_py()] * len(table), table[name].type),
            "no UTF-8": pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers()).take([0] * len(table)),
        }.items():
            found[f"{name} {what}"] = table.set_column(place, name, values)
    return {what: lambda file, changed=changed: pq.write_table(changed, file) for what, changed in found.items()}


def weights(file: Path) -> dict[str, Callable[[Path], object]]:
    tensors = load_file(file)
    found: dict[str, dict[str, torch.Tensor]] = {"no tensors": {}, "another": {**tensors, "other": torch.zeros(2)}}
    for name in [*tensors][:: max(1, len(tensors) // 4)]:
        rest = {key: tensor for key, tensor in tensors.items() if key != name}
        found[f"without {name}"] = rest
        for what, changed in {
            "of float64": tensors[name].double(),
            "of float16": tensors[name].half(),
            "of int64": tensors[name].long(),
            "longer": torch.cat([tensors[name], tensors[name][-1:]]),
            "flat": tensors[name].flatten()[None],
            "NaN": torch.full_like(tensors[name], float("nan")),
            "infinite": torch.full_like(tensors[name], float("inf")),
            "largest": torch.full_like(tensors[name], torch.finfo(tensors[name].dtype).max),
        }.items():
            found[f"{name} {what}"] = {**rest, name: changed.contiguous()}
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return {what: lambda file, changed=changed: save_file(changed, file) for what, changed in found.items()} | {
        "of torch.save": lambda file: file.write_bytes(buffer.getvalue())
    }


def objects(file: Path) -> dict[str, Callable[[Path], object]]:
    content = json.loads(file.read_text())
    found = {what: lambda file, text=text: file.write_text(text) for what, text in texts_of(content).items()}
    return found | {"no UTF-8": lambda file: file.write_bytes(json.dumps(content).encode() + b"\xff")}


def texts_of(content: dict[str, Any], most: int = 60) -> dict[str, str]:
    """Each field of an object removed, or with another value, as JSON. At most `most` fields: a tokenizer has thousands."""
    found = {"a field more": json.dumps({**content, "strange": 1})}
    for path in list(_paths(content))[:most]:
        named = ".".join(map(str, path))
        found[f"without {named}"] = json.dumps(_with(content, path, None, remove=True))
        for what, text in OTHER_VALUES.items():
            found[f"{named} is {what}"] = json.dumps(_with(content, path, "@@")).replace('"@@"', text)
        found[f"{named} is deep"] = json.dumps(_with(content, path, "@@")).replace('"@@"', DEEP)
    return found


def _paths(content: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    parts = (
        content.items() if isinstance(content, dict) else enumerate(content[:2]) if isinstance(content, list) else ()
    )
    for key, value in parts:
        yield (*before, key)
        yield from _paths(value, (*before, key))


def _with(content: Any, path: tuple[Any, ...], value: Any, remove: bool = False) -> Any:
    changed = json.loads(json.dumps(content))
    place = changed
    for key in path[:-1]:
        place = place[key]
    if remove:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return changed
