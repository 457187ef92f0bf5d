"""Amazon review data, 2014, 2018 and 2023: ratings or reviews, and metadata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import ibis
import ibis.expr.types as ir

from linguarec.data.engine import Engine
from linguarec.data.preparation import Source
from linguarec.data.readers import functions
from linguarec.data.readers.attributes import check_parts, find_attributes, warn_of_empty
from linguarec.data.readers.files import csv_table, first_fields
from linguarec.data.readers.json_files import first_objects, is_json, json_string, json_table, open_json
from linguarec.data.readers.times import TimeUnit, check_moments, check_parsed, parsed_time, unit_hint
from linguarec.data.source_files import SourceFiles
from linguarec.errors import DataFormatError, quoted


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
        "details": "details",
    },
)
# The earliest edition has no features and no details; its ratings name the user first.
AMAZON_2014 = replace(
    AMAZON_2018,
    ratings_header=("user", "item", "rating", "timestamp"),
    attributes={
        "title": "title",
        "categories": "categories",
        "brand": "brand",
        "description": "description",
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
        "details": "details",
    },
)
# The editions whose times are in another unit, as a message names them.
_EDITIONS: dict[TimeUnit, str] = {
    "seconds": "is it of 2014 or 2018? (prepare amazon-2018)",
    "milliseconds": "is it of 2023? (prepare amazon-2023)",
}


def read_amazon(
    engine: Engine, scratch: Path, edition: Edition, ratings: Path, meta: Path, attributes: Sequence[str]
) -> Source:
    """Read the ratings (CSV) or reviews (JSON) and the metadata (JSON), plain or packed.

    JSON may be one object a line, one array, or one Python dictionary a line (the files of 2014). Two rows are the same
    interaction if user, item, time, rating and, in reviews, style, title and text agree.

    Args:
        engine: where the tables are stored.
        scratch: a folder for copies.
        edition: the names of keys and columns.
        ratings: ratings or reviews; the content tells which.
        meta: the metadata.
        attributes: names of `edition.attributes`, other keys of the metadata, or KEY.PART of a dictionary.

    Raises:
        DataFormatError: a key or column is missing, a rating or time does not parse, or a file is cut short.
        SettingsError: an attribute is not known.
    """
    metadata = open_json(meta, scratch, engine.plain_files)
    sample = list(first_objects(metadata))
    wanted = find_attributes(attributes, edition.attributes, {key: None for each in sample for key in each}, meta)
    check_parts(wanted, sample, meta)
    log, counted = _log(engine, scratch, edition, ratings)
    fields = {"raw_id": edition.item, **{f"value_{k}": each.key for k, each in enumerate(wanted)}}
    raw = json_table(engine, metadata, fields, required=["raw_id"])
    values = {
        each.name: json_string(raw[f"value_{k}"])
        if each.part is None
        else functions.written_value(raw[f"value_{k}"].cast("string"), each.part)
        for k, each in enumerate(wanted)
    }
    strings = engine.store_rows(raw.select(raw_id=json_string(raw.raw_id), **values))
    numbered = engine.positioned(strings)
    counted["catalogue_rows_without_item"] = engine.value(numbered.raw_id.isnull().sum().fill_null(0))
    catalogue = engine.store(numbered.filter(numbered.raw_id.notnull()), strings)
    warn_of_empty(engine, catalogue, wanted, meta)
    return Source(log, catalogue, [each.name for each in wanted], has_times=True, counted=counted)


def _log(engine: Engine, scratch: Path, edition: Edition, file: Path) -> tuple[ir.Table, dict[str, int]]:
    """The stored log, and counts of moments that cannot be right."""
    if is_json(file, scratch):
        rest = {f"rest_{k}": key for k, key in enumerate(edition.rest)}
        source = open_json(file, scratch, engine.plain_files)
        raw = json_table(engine, source, {**edition.reviews, **rest}, required=list(edition.reviews))
        variant = functions.hash_of_four(raw.rating, raw.rest_0, raw.rest_1, raw.rest_2)
        user, item, moment, rating = (json_string(raw[name]) for name in ("user", "item", "moment", "rating"))
    else:
        first = first_fields(file, scratch)
        width = len(edition.ratings_header)
        if len(first) < width:
            raise DataFormatError(
                f"{file}, line 1 has {len(first)} values ({quoted(','.join(first))}); expected "
                f"{', '.join(edition.ratings_header)} separated by commas, or reviews as JSON."
            )
        has_header = not _is_number(first[width - 1])
        raw = csv_table(
            engine,
            SourceFiles.of(file),
            scratch,
            edition.ratings,
            names=None if has_header else edition.ratings_header,
            delimiter=",",
        )
        user, item, moment, rating = raw.user, raw.item, raw.moment, raw.rating
        variant = rating.hash()
    time, stars = parsed_time(moment, edition.time_unit), rating.try_cast("float64")
    log = engine.store_rows(
        raw.select(
            user=user,
            item=item,
            time=time,
            variant=variant,
            unparsed_time=ibis.ifelse(time.isnull(), moment.fill_null(""), ibis.null("string")),
            unparsed_rating=ibis.ifelse(stars.isnull(), rating.fill_null(""), ibis.null("string")),
        )
    )
    expected, hint = (
        f"a number of {edition.time_unit} since 1970",
        partial(unit_hint, unit=edition.time_unit, units=_EDITIONS),
    )
    check_parsed(engine, log, "time", "the time", file, expected, hint)
    check_parsed(engine, log, "rating", "the rating", file, "a number")
    return log, check_moments(engine, log, file, edition.time_unit, _EDITIONS)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
