"""Amazon review data, 2018 and 2023: ratings or reviews, and metadata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir

from linguarec.data.engine import Engine
from linguarec.data.preparation import Source
from linguarec.data.readers import functions
from linguarec.data.readers.files import (
    TimeUnit,
    check_parsed,
    csv_table,
    first_fields,
    json_string,
    json_table,
    parsed_time,
)
from linguarec.errors import DataFormatError, SettingsError


@dataclass(frozen=True)
class Edition:
    """The names that one edition of the data uses.

    `ratings_header`: columns of the ratings CSV where it has no header line. `ratings`, `reviews`: our columns `user`,
    `item`, `moment`, `rating` in the ratings CSV and in the reviews JSON. `rest`: other keys that tell reviews apart.
    `attributes`: our attribute names and the keys of the metadata JSON.
    """

    ratings_header: Sequence[str]
    ratings: Mapping[str, str]
    reviews: Mapping[str, str]
    rest: tuple[str, str, str]
    time_unit: TimeUnit
    item: str
    attributes: Mapping[str, str]


AMAZON_2018 = Edition(
    ratings_header=("item", "user", "rating", "timestamp"),
    ratings={"user": "user", "item": "item", "moment": "timestamp", "rating": "rating"},
    reviews={"user": "reviewerID", "item": "asin", "moment": "unixReviewTime", "rating": "overall"},
    rest=("style", "summary", "reviewText"),
    time_unit="seconds",
    item="asin",
    attributes={
        "title": "title",
        "categories": "category",
        "brand": "brand",
        "description": "description",
        "features": "feature",
        "price": "price",
    },
)
AMAZON_2023 = Edition(
    ratings_header=("user_id", "parent_asin", "rating", "timestamp"),
    ratings={"user": "user_id", "item": "parent_asin", "moment": "timestamp", "rating": "rating"},
    reviews={"user": "user_id", "item": "parent_asin", "moment": "timestamp", "rating": "rating"},
    rest=("asin", "title", "text"),
    time_unit="milliseconds",
    item="parent_asin",
    attributes={
        "title": "title",
        "categories": "categories",
        "brand": "store",
        "description": "description",
        "features": "features",
        "price": "price",
    },
)


def read_amazon(
    engine: Engine, scratch: Path, edition: Edition, ratings: Path, meta: Path, attributes: Sequence[str]
) -> Source:
    """Read the ratings (CSV) or reviews (JSON lines) and the metadata (JSON lines), plain or packed.

    Two rows are the same interaction if user, item, time, rating and, in reviews, style, title and text agree.

    Raises:
        DataFormatError: a key or column is missing, a rating or time does not parse, or a file is cut short.
        SettingsError: an attribute is not known.
    """
    unknown = [name for name in attributes if name not in edition.attributes]
    if unknown or not attributes:
        raise SettingsError(
            [f"attribute {name!r} is not known; choose from {', '.join(edition.attributes)}." for name in unknown]
            or [f"--attributes is empty; choose from {', '.join(edition.attributes)}."]
        )
    log = _log(engine, scratch, edition, ratings)
    fields = {"raw_id": edition.item, **{name: edition.attributes[name] for name in attributes}}
    raw = json_table(engine, meta, scratch, fields, required=["raw_id"])
    strings = engine.store(raw.select(**{name: json_string(raw[name]) for name in fields}))
    numbered = strings.mutate(position=strings.rowid())
    catalogue = engine.store(numbered.filter(numbered.raw_id.notnull()), strings)
    return Source(log, catalogue, list(attributes), has_times=True)


def _log(engine: Engine, scratch: Path, edition: Edition, file: Path) -> ir.Table:
    if ".json" in file.suffixes or ".jsonl" in file.suffixes:
        rest = {f"rest_{k}": key for k, key in enumerate(edition.rest)}
        raw = json_table(engine, file, scratch, {**edition.reviews, **rest}, required=list(edition.reviews))
        variant = functions.hash_of_four(raw.rating, raw.rest_0, raw.rest_1, raw.rest_2)
        user, item, moment, rating = (json_string(raw[name]) for name in ("user", "item", "moment", "rating"))
    else:
        first = first_fields(file, scratch)
        width = len(edition.ratings_header)
        if len(first) < width:
            raise DataFormatError(
                f"{file}, line 1 has {len(first)} values, expected {', '.join(edition.ratings_header)} separated by commas."
            )
        has_header = not _is_number(first[width - 1])
        raw = csv_table(
            engine, file, scratch, edition.ratings, names=None if has_header else edition.ratings_header, delimiter=","
        )
        user, item, moment, rating = raw.user, raw.item, raw.moment, raw.rating
        variant = rating.hash()
    time, stars = parsed_time(moment, edition.time_unit), rating.try_cast("float64")
    log = engine.store(
        raw.select(
            user=user,
            item=item,
            time=time,
            variant=variant,
            unparsed_time=ibis.ifelse(time.isnull(), moment.fill_null(""), ibis.null("string")),
            unparsed_rating=ibis.ifelse(stars.isnull(), rating.fill_null(""), ibis.null("string")),
        )
    )
    check_parsed(engine, log, "time", "the time", file, f"a number of {edition.time_unit} since 1970")
    check_parsed(engine, log, "rating", "the rating", file, "a number")
    return log


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
