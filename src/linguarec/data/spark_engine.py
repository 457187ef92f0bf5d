"""Spark, the engine of preparation on a cluster: the same Ibis expressions, in Spark SQL.

What Ibis does not say on Spark, or says in another way, is said here:

- **The order of a file.** Spark reads a file in parts, on several workers, and its tables have no order. Each row
  gets its file, the first byte of its part, and its number within the part; parts are then counted, so that
  `position` is the row in the files. Files are sorted by path. Nothing depends on which worker reads what.
- **Rows of files** are made by DuckDB in the workers (`spark_rows`), so that there is one parser of CSV, JSON,
  numbers and dates.
- **Numbering** by a window without partitions would bring all rows to one worker. `numbered` sorts by ranges, and
  counts the ranges.
- **Tables of steps** are local checkpoints: they lie on the disks of the workers, and the plan of a step does not
  hold those before. Where `spark.checkpoint.dir` is set they lie there, and survive the loss of a worker.
- **Large results** come as Arrow batches, range by range, so that this process never holds them whole.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ibis
import ibis.expr.operations as ops
import ibis.expr.types as ir
import pyarrow as pa

from linguarec.data.duckdb_engine import explain
from linguarec.data.engine import Engine, EngineChoice
from linguarec.data.source_files import SourceFiles, TextForm
from linguarec.data.spark_rows import CUT_APART, PLACE, ROWS, ParquetReader, Reader, TextReader, problem_in, shown_path
from linguarec.data.spark_session import session
from linguarec.errors import DataFormatError, OutputError, SettingsError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_WHOLE = 1 << 45  # bytes: more than a file has


class SparkEngine(Engine):
    """An Ibis connection to Spark."""

    plain_files = True  # a packed file cannot be read in parts

    def __init__(self, spark: "SparkSession") -> None:
        self.spark = spark
        self.connection = ibis.pyspark.connect(spark)
        self._tables = 0
        self._files: dict[str, _Files] = {}
        self._kept: dict[str, list[DataFrame]] = {}  # checkpoints behind each stored table

    def text_rows(self, files: SourceFiles, form: TextForm) -> ir.Table:
        """Nothing is read yet.

        Raises:
            DataFormatError: the file is one JSON array, which cannot be read in parts.
        """
        if getattr(form, "is_array", False):
            raise DataFormatError(
                f"{files.shown} is one JSON array, which Spark cannot read in parts; write one object a line, or use "
                f"--engine duckdb."
            )
        table: ir.Table = ibis.table(form.columns, name=self._name("rows"))
        self._files[table.get_name()] = _Files(files, form)
        return table

    def parquet_rows(self, files: SourceFiles, columns: Mapping[str, str]) -> ir.Table:
        """Nothing is read yet but the columns' types."""
        with _reporting(files):
            read = self._parquet(files)
            chosen = [read[f"`{name.replace('`', '``')}`"].alias(key) for key, name in columns.items()]
            frame = read.select(
                *chosen, read["_metadata.file_path"].alias("_file"), read["_metadata.row_index"].alias("_row")
            )
            schema = self._schema(frame.select(*columns))
        table: ir.Table = ibis.table(schema, name=self._name("rows"))
        self._files[table.get_name()] = _Files(files, None, frame)
        return table

    def first_line(self, address: str) -> str:
        """As Spark reads text."""
        with _reporting(SourceFiles.of(address)):
            found = self.spark.read.option("lineSep", "\n").text(address).head()
        if found is None or not found[0]:
            raise DataFormatError(f"{address} is empty.")
        return str(found[0]).rstrip("\r").removeprefix("\ufeff")

    def parquet_columns(self, address: str) -> list[str]:
        """As Spark describes them."""
        files = SourceFiles.of(address)
        with _reporting(files):
            return list(self._parquet(files).columns)

    def store_rows(self, expression: ir.Table) -> ir.Table:
        """The table has the column `position` already."""
        name, read = self._source(expression)
        query = str(ibis.to_sql(expression, dialect="duckdb")).replace(f'"{name}"', f'"{ROWS}"')
        schema = expression.schema()
        kinds = {key: kind if kind != ibis.dtype("uint64") else ibis.dtype("int64") for key, kind in schema.items()}
        arrow = ibis.schema(kinds).to_pyarrow()
        with _reporting(read.files):
            stored = self._keep(self._read(read, query, arrow, whole=False))
            parts = self._parts(stored)
            if any(first == CUT_APART for _, _, first, _ in parts):
                # A row has a line break within quotes where a part ends, or a row is malformed, whose line is then counted.
                self._forget(stored)
                with self._whole_files():
                    stored = self._keep(self._read(read, query, arrow, whole=True))
                parts = self._parts(stored)
        before, offsets = 0, []
        for file, part, _, last in sorted(parts, key=lambda each: (shown_path(each[0]), each[1])):
            offsets.append((file, part, before))
            before += last + 1
        return self._with_offsets(stored, offsets, kinds)

    def first_rows(self, expression: ir.Table, number: int) -> list[dict[str, Any]]:
        """The first rows of the first part that Spark hands out, computed here."""
        name, read = self._source(expression)
        query = str(ibis.to_sql(expression, dialect="duckdb")).replace(f'"{name}"', f'"{ROWS}"')
        reader = self._reader(read, query, expression.schema().to_pyarrow(), whole=True)
        batches = self._frame(read).limit(number).toArrow().combine_chunks().to_batches()
        found = pa.Table.from_batches(list(reader(iter(batches)))) if batches else None
        return [] if found is None else found.drop_columns(PLACE.names).to_pylist()

    def positioned(self, stored: ir.Table) -> ir.Table:
        """It is in the table."""
        return stored

    def numbered(self, expression: ir.Table, order: str) -> ir.Table:
        """The table is sorted, each range numbers its rows, and the ranges before it are counted."""
        from pyspark.sql import functions as F

        sorted_rows = self._frame_of(expression.order_by(order).drop(order))
        marked = self._keep(sorted_rows.withColumn("_mark", F.monotonically_increasing_id()))
        part, row = F.shiftright("_mark", 33).alias("_part"), F.col("_mark").bitwiseAND((1 << 33) - 1)
        counts = sorted(tuple(each) for each in marked.groupBy(part).count().collect())
        before, offsets = 0, []
        for number, count in counts:
            offsets.append((number, before))
            before += count
        ranges = F.broadcast(self.spark.createDataFrame(offsets, "_range bigint, _before bigint"))
        joined = marked.join(ranges, F.shiftright("_mark", 33) == F.col("_range"))
        code = (F.col("_before") + row).cast("int").alias("code")
        columns = [name for name in expression.columns if name != order]
        return self._named(joined.select(*map(_quoted, columns), code), marked)

    def store(self, expression: ir.Table, *consumed: ir.Table) -> ir.Table:
        """Compute `expression` into a new table, then drop the `consumed` tables."""
        kept = self._keep(self._frame_of(expression))
        stored = self._named(kept, kept)
        self.drop(*consumed)
        return stored

    def drop(self, *tables: ir.Table) -> None:
        """Drop stored tables."""
        for table in tables:
            name = table.get_name()
            self.spark.catalog.dropTempView(name)
            for kept in self._kept.pop(name, []):
                self._forget(kept)

    def rows(self, expression: ir.Table) -> list[dict[str, Any]]:
        """A small result as Python rows."""
        found: list[dict[str, Any]] = self._frame_of(expression).toArrow().to_pylist()
        return found

    def stream(self, expression: ir.Table) -> Iterator[pa.RecordBatch]:
        """A large result in pieces, in its order."""
        packed = self._frame_of(expression).mapInArrow(_packed, "batch binary")
        for row in packed.toLocalIterator(prefetchPartitions=True):
            with pa.ipc.open_stream(bytes(row[0])) as reader:
                yield from reader

    def close(self) -> None:
        """Drop what is left."""
        for name in list(self._kept):
            self.spark.catalog.dropTempView(name)
            for kept in self._kept.pop(name):
                self._forget(kept)

    def _name(self, kind: str) -> str:
        self._tables += 1
        return f"linguarec_{kind}_{self._tables}"

    def _frame_of(self, expression: ir.Table) -> "DataFrame":
        return self.spark.sql(self.connection.compile(expression))

    def _schema(self, frame: "DataFrame") -> "ibis.Schema":
        from ibis.backends.pyspark.datatypes import PySparkType

        return ibis.schema({field.name: PySparkType.to_ibis(field.dataType) for field in frame.schema})

    def _source(self, expression: ir.Table) -> "tuple[str, _Files]":
        (source,) = expression.op().find(ops.UnboundTable)
        return source.name, self._files[source.name]

    def _parquet(self, files: SourceFiles) -> "DataFrame":
        reader = self.spark.read.option("mergeSchema", "false")
        if files.root is not None:
            reader = reader.option("basePath", f"file://{Path(files.root).absolute()}")
        return reader.parquet(*_addresses(files))

    def _frame(self, read: "_Files") -> "DataFrame":
        """Lines of bytes, or columns, with the file and the part."""
        from pyspark.sql import functions as F

        if read.frame is not None:
            columns = [name for name in read.frame.columns if name not in PLACE.names]
            return read.frame.select(*map(_quoted, columns), "_file", F.lit(0).cast("bigint").alias("_part"), "_row")
        return (
            self.spark.read.option("lineSep", "\n")
            .text(_addresses(read.files))
            .select(
                F.col("value").cast("binary").alias("line"),
                F.col("_metadata.file_path").alias("_file"),
                F.col("_metadata.file_block_start").alias("_part"),
            )
        )

    @contextlib.contextmanager
    def _whole_files(self) -> Iterator[None]:
        """Files that are read within the block are one part each."""
        keys = ("spark.sql.files.maxPartitionBytes", "spark.sql.files.openCostInBytes")
        before = {key: str(self.spark.conf.get(key)) for key in keys}
        try:
            for key in keys:
                self.spark.conf.set(key, _WHOLE)
            yield
        finally:
            for key, value in before.items():
                self.spark.conf.set(key, value)

    def _reader(self, read: "_Files", query: str, schema: pa.Schema, whole: bool) -> Reader:
        return ParquetReader(query, schema) if read.form is None else TextReader(read.form, query, schema, whole)

    def _read(self, read: "_Files", query: str, schema: pa.Schema, whole: bool) -> "DataFrame":
        from pyspark.sql.pandas.types import from_arrow_schema

        target = from_arrow_schema(pa.schema([*schema, *PLACE]))
        reader = self._reader(read, query, schema, whole)
        # A function and not the object: Spark looks at the signature.
        return self._frame(read).mapInArrow(lambda batches: reader(batches), target)

    def _parts(self, stored: "DataFrame") -> list[tuple[str, int, int, int]]:
        from pyspark.sql import functions as F

        grouped = stored.groupBy("_file", "_part").agg(F.min("_row"), F.max("_row"))
        return [tuple(row) for row in grouped.collect()]

    def _with_offsets(
        self, stored: "DataFrame", offsets: list[tuple[str, int, int]], columns: Mapping[str, Any]
    ) -> ir.Table:
        from pyspark.sql import functions as F

        parts = F.broadcast(self.spark.createDataFrame(offsets, "_of string, _begin bigint, _before bigint"))
        joined = stored.join(parts, (F.col("_file") == F.col("_of")) & (F.col("_part") == F.col("_begin")))
        position = (F.col("_before") + F.col("_row")).alias("position")
        return self._named(joined.select(*map(_quoted, columns), position), stored)

    def _keep(self, frame: "DataFrame") -> "DataFrame":
        from pyspark import StorageLevel

        if self.spark.sparkContext.getConf().contains("spark.checkpoint.dir"):
            return frame.checkpoint(eager=True)
        return frame.localCheckpoint(eager=True, storageLevel=StorageLevel.DISK_ONLY)

    def _named(self, frame: "DataFrame", *kept: "DataFrame") -> ir.Table:
        name = self._name("step")
        frame.createOrReplaceTempView(name)
        self._kept[name] = list(kept)
        return self.connection.table(name)

    def _forget(self, kept: "DataFrame") -> None:
        kept._jdf.queryExecution().analyzed().rdd().unpersist(False)


class _Files:
    """Files that are read when their rows are stored: text of a form, or a data frame of Parquet files."""

    def __init__(self, files: SourceFiles, form: TextForm | None, frame: "DataFrame | None" = None) -> None:
        self.files, self.form, self.frame = files, form, frame


@contextlib.contextmanager
def opened(scratch: Path, choice: EngineChoice) -> Iterator[SparkEngine]:
    """An engine on Spark (`linguarec.data.engine.open_engine`)."""
    with session(choice) as spark, _reporting(None, scratch):
        engine = SparkEngine(spark)
        try:
            yield engine
        finally:
            with contextlib.suppress(Exception):  # a lost connection has been reported already
                engine.close()


@contextlib.contextmanager
def _reporting(files: SourceFiles | None, scratch: Path = Path("/")) -> Iterator[None]:
    """Errors of Spark become ours.

    Raises:
        DataFormatError: rows of a file cannot be read, or Spark cannot open an address.
        OutputError: a disk is full.
        SettingsError: Spark's master or a worker was lost.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JError) as error:
        text = str(error)
        if problem := problem_in(text):
            raise DataFormatError(explain(problem, scratch)) from error
        if re.search(r"no space left|disk (is )?full", text, re.IGNORECASE):
            raise OutputError(
                "The disk of a Spark worker is full; free some space, or set spark.local.dir to a larger disk."
            ) from error
        reason = _cause(text)
        if files is not None and files.remote:
            raise DataFormatError(
                f"Spark cannot read {files.shown} ({reason}). Check the address, its credentials, and that Spark has "
                f"the jar for it "
                "(s3a: hadoop-aws, gs: gcs-connector); http and https are not read by Spark."
            ) from error
        if files is not None:
            raise DataFormatError(f"Spark cannot read {files.shown}: {reason}.") from error
        raise SettingsError(
            [f"Spark failed: {reason}. Its log tells more; --engine duckdb prepares on this machine."]
        ) from error


def _cause(text: str) -> str:
    """The last cause that a stack of Java names, else the first line."""
    causes = re.findall(r"^\s*Caused by: (.+)$", text, re.MULTILINE)
    line = causes[-1] if causes else text.strip().splitlines()[0]
    return line.strip()[:300]


def _addresses(files: SourceFiles) -> list[str]:
    """What Spark is to read: an address as it is, local paths as literal names (Spark takes every path for a pattern)."""
    if files.remote:
        return list(files.paths)
    return ["file://" + re.sub(r"([\[\]{}*?\\])", r"\\\1", str(Path(path).absolute())) for path in files.paths]


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"


def _packed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Each batch as one value, in Arrow's form of a stream; runs in the workers."""
    for batch in batches:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        yield pa.record_batch([pa.array([sink.getvalue().to_pybytes()], pa.binary())], names=["batch"])
