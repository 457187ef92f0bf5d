"""UCI Online Retail: a user is an invoice, an item is a stock code, its text is the first description in the file."""

from pathlib import Path

import ibis

from linguarec.data.engine import Engine
from linguarec.data.preparation import Source
from linguarec.data.readers.files import Encoding, csv_table
from linguarec.data.readers.times import check_moments, check_parsed, parsed_time
from linguarec.data.source_files import SourceFiles

COLUMNS = {
    "user": "InvoiceNo",
    "item": "StockCode",
    "description": "Description",
    "quantity": "Quantity",
    "moment": "InvoiceDate",
}
# The copy of the UCI archive as CSV, and what spreadsheets export.
DATE_FORMATS = ("%Y-%m-%d %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%m/%d/%y %H:%M")


def read_online_retail(
    engine: Engine, scratch: Path, file: Path, encoding: Encoding = "utf-8", lower: bool = False
) -> Source:
    """Read the CSV file (plain or packed); rows without a description are dropped and counted.

    Two rows are the same interaction if invoice, stock code, time and quantity agree. `lower`: descriptions in lower
    case, as the released code writes them.

    Raises:
        DataFormatError: a column is missing, a date or quantity does not parse, or the file is cut short.
    """
    raw = csv_table(engine, SourceFiles.of(file), scratch, COLUMNS, encoding)
    time = parsed_time(raw.moment, "seconds", DATE_FORMATS)
    quantity = raw.quantity.try_cast("float64")
    rows = engine.store_rows(
        raw.select(
            "user",
            "item",
            "description",
            time=time,
            variant=quantity.hash(),
            unparsed_time=ibis.ifelse(time.isnull(), raw.moment.fill_null(""), ibis.null("string")),
            unparsed_quantity=ibis.ifelse(quantity.isnull(), raw.quantity.fill_null(""), ibis.null("string")),
        )
    )
    check_parsed(engine, rows, "time", "InvoiceDate", file, "YYYY-MM-DD HH:MM:SS or MM/DD/YYYY HH:MM")
    check_parsed(engine, rows, "quantity", "Quantity", file, "a number")
    counted = check_moments(engine, rows, file, "seconds", units={})
    number = engine.value(rows.count())
    described = engine.positioned(rows).filter(rows.description.notnull())
    log = engine.store(described.select("user", "item", "time", "variant"))
    description = described.description.strip()
    versions = described.group_by(raw_id="item", description=description.lower() if lower else description)
    catalogue = engine.store(versions.agg(position=described.position.min()), rows)
    dropped = {"rows_without_description": number - engine.value(log.count())}
    counted["rows_read"] = number
    return Source(log, catalogue, ["description"], has_times=True, dropped=dropped, counted=counted)
