"""RecBole's atomic files: NAME.inter and NAME.item, tab-separated, with types in the header (`user_id:token`)."""

from pathlib import Path

from linguarec.data.engine import Engine
from linguarec.data.preparation import Source
from linguarec.data.readers.files import text_columns
from linguarec.data.readers.table import TableColumns, read_table
from linguarec.data.readers.times import TimeUnit
from linguarec.errors import DataFormatError

USER, ITEM, TIME = "user_id", "item_id", "timestamp"


def find_name(folder: Path) -> str:
    """The NAME of the atomic or benchmark files in `folder`.

    Raises:
        DataFormatError: there is no NAME.inter or NAME.train.inter, or there are several names.
    """
    if not folder.is_dir():
        raise DataFormatError(f"{folder} does not exist or is not a folder; give the one that holds NAME.inter.")
    names = sorted({file.name.split(".")[0] for file in folder.glob("*.inter")})
    if len(names) != 1:
        raise DataFormatError(
            f"{folder}: expected the files of one data set (NAME.inter, or NAME.train.inter and so on), found "
            f"{', '.join(names) or 'none'}; give the folder that holds one, or name it with --name."
        )
    return names[0]


def is_benchmark(folder: Path, name: str) -> bool:
    """Whether the folder holds benchmark files (one row for every prefix) under that name."""
    return (folder / f"{name}.train.inter").exists()


def has_times(folder: Path, name: str) -> bool:
    """Whether NAME.inter has a column `timestamp`; without it the order is that of the file."""
    return TIME in _typed_names(folder / f"{name}.inter")


def read_atomic(engine: Engine, scratch: Path, folder: Path, name: str, time_unit: TimeUnit = "seconds") -> Source:
    """Read NAME.inter and, where it exists, NAME.item; without a column `timestamp` the order is that of the file.

    Raises:
        DataFormatError: a column is missing, or a timestamp does not parse or cannot be right.
    """
    log, items = folder / f"{name}.inter", folder / f"{name}.item"
    typed = _typed_names(log)
    columns = TableColumns(
        user=typed.get(USER, USER),
        item=typed.get(ITEM, ITEM),
        time=typed.get(TIME, TIME),
        catalogue_item=_typed_names(items).get(ITEM, ITEM) if items.exists() else ITEM,
        order="time" if TIME in typed else "file",
        time_unit=time_unit,
    )
    return read_table(engine, scratch, log, items if items.exists() else None, columns, delimiter="\t", quotes=False)


def _typed_names(file: Path) -> dict[str, str]:
    """`name` to `name:type` for each column; the files are never packed."""
    names = text_columns(file, file.parent, None, "utf-8", "\t", quotes=False)
    return {name.split(":")[0]: name for name in names}
