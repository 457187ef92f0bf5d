"""Small source files for the tests of the readers."""

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

USERS, ITEMS, DAY = 5, 5, 86_400
RETAIL_HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
START = 1_500_000_000  # 2017-07-14


def rectangle(start: int = START, step: int = DAY) -> list[tuple[str, str, int]]:
    """Every user met every item, in the order i4, i3, ..., i0: a 5-core by itself."""
    return [(f"u{user}", f"i{item}", start + step * (ITEMS - item)) for user in range(USERS) for item in range(ITEMS)]


def every_pair(users: int = 5, items: int = 5) -> list[tuple[str, str, int]]:
    """Every user met every item: a 5-core by itself; times run backwards through the items."""
    return [(f"u{user}", f"i{item}", 1000 * user + items - item) for user in range(users) for item in range(items)]


def write_log(file: Path, rows: Iterable[Sequence[Any]], header: str = "user_id,item_id,timestamp") -> Path:
    file.write_text(header + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
    return file


def write_json_lines(file: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def reviews_2018() -> list[dict[str, Any]]:
    return [
        {"reviewerID": user, "asin": item, "unixReviewTime": time, "overall": 5.0, "reviewText": 'It\'s "good"'}
        for user, item, time in rectangle()
    ]


def metadata(item: str = "asin", **values: Any) -> list[dict[str, Any]]:
    return [{item: f"i{k}", "title": f"Thing {k}", **values} for k in range(ITEMS)]


def nothing_written(folder: Path) -> bool:
    """No output, finished or half-written, is left in the folder."""
    return not (folder / "out").exists() and not [entry for entry in folder.iterdir() if ".partial" in entry.name]


def amazon_meta(file: Path, item_key: str, brand_key: str, category_key: str) -> Path:
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        for k in range(5):
            record = {item_key: f"i{k}", "title": f"Thing {k}.", brand_key: "Acme", category_key: ["Home", "A &amp; B"]}
            lines.write(json.dumps(record) + "\n")
        lines.write(json.dumps({item_key: "i9", "title": None}) + "\n")
    return file
