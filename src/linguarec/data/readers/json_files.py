"""Reads JSON: one object a line, one array of objects, or (Amazon 2014) one Python dictionary a line."""

import ast
import codecs
import itertools
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir

from linguarec.data.engine import Engine
from linguarec.data.readers import functions
from linguarec.data.readers.files import first_character, first_line
from linguarec.data.readers.forms import JsonForm
from linguarec.data.readers.packing import check_unpacked_size, duckdb_compression, opened, scratch_copy, unpacked
from linguarec.data.source_files import SourceFiles
from linguarec.errors import DataFormatError, listed, quoted

LONGEST_OBJECT = 1 << 27  # bytes
LONGEST_LITERAL = 1 << 20  # bytes; the parser of Python takes some hundred times the memory
_PIECE = 1 << 16
SAMPLE = 1000  # objects whose keys are looked at before the whole file is read


class JsonFile(NamedTuple):
    """A file that DuckDB can read, `shown` in messages under its own name. `is_array`: one array, not one object a line."""

    plain: Path
    shown: Path
    is_array: bool


def is_json(file: Path, scratch: Path) -> bool:
    """Whether the content of the file begins as JSON does.

    Raises:
        DataFormatError: the file is missing or damaged.
    """
    return first_character(unpacked(file, scratch), file) in ("{", "[")


def open_json(file: Path, scratch: Path, plain_only: bool = False) -> JsonFile:
    """Unpack the file where needed (`plain_only`: also gzip), and find out its form. Python dictionaries become JSON
    in `scratch`.

    Raises:
        DataFormatError: the file is missing or damaged, or does not begin with an object.
    """
    plain = unpacked(file, scratch, plain_only)
    check_unpacked_size(plain)
    if first_character(plain, file) == "[":
        return JsonFile(plain, file, is_array=True)
    line = first_line(plain, "utf-8", file, LONGEST_OBJECT)
    try:
        json.loads(line)
    except ValueError as error:
        if not _is_dictionary(line):
            raise DataFormatError(
                f"{file}, line 1 is not JSON ({error}): {quoted(line)}. Expected one object a line, or one array of objects."
            ) from error
        plain = _dictionaries_to_json(plain, scratch, file)
    return JsonFile(plain, file, is_array=False)


def json_table(engine: Engine, source: JsonFile, fields: Mapping[str, str], required: Sequence[str] = ()) -> ir.Table:
    """The objects as a table of a file; `fields` maps the wanted names to the keys in the file; every value is JSON or NULL.

    Raises:
        DataFormatError: the first object lacks one of the `required` keys.
    """
    first = next(first_objects(source), {})
    missing = [fields[name] for name in required if fields[name] not in first]
    if missing:
        where = "the first object" if source.is_array else "line 1"
        raise DataFormatError(f"{source.shown}, {where} lacks the key {missing[0]!r}; it has {listed(first)}.")
    keys = tuple(dict.fromkeys(fields.values()))
    form = JsonForm(keys, source.is_array, LONGEST_OBJECT, duckdb_compression(source.plain))
    files = SourceFiles(str(source.shown), (str(source.plain),))
    return engine.text_rows(files, form).select(**fields)


def json_string(value: ir.Value) -> ir.StringValue:
    """A JSON value as `written_out` writes it: strings bare, lists joined by " > ", dictionaries as "key: value", null as
    NULL, anything else as it stands."""
    text = value.cast("string")
    has_parts = text.re_search(r"^\{|^\[\s*[\[{]|,\s*[\[{]")  # a dictionary, or a list of lists or dictionaries
    return ibis.cases(
        (text.startswith('"'), functions.json_extract_string(value, "$")),
        (has_parts, functions.written_value(text)),
        (text.startswith("["), functions.json_extract_strings(value, "$[*]").join(" > ")),
        (text == "null", ibis.null("string")),
        else_=text,
    )


def first_objects(source: JsonFile, number: int = SAMPLE) -> Iterator[dict[str, Any]]:
    """The first objects of the file, parsed.

    Raises:
        DataFormatError: one of them is not an object, or is longer than `LONGEST_OBJECT`.
    """
    objects = _of_array(source) if source.is_array else _of_lines(source)
    for place, (where, value) in enumerate(objects):
        if not isinstance(value, dict):
            raise DataFormatError(
                f"{source.shown}, {where} is a {type(value).__name__}: {quoted(value)}; expected an object with named values."
            )
        yield value
        if place + 1 == number:
            return


def _of_lines(source: JsonFile) -> Iterator[tuple[str, Any]]:
    with opened(source.plain, source.shown) as content:
        for number, line in enumerate(iter(lambda: content.readline(LONGEST_OBJECT), b""), start=1):
            if not line.strip():
                continue
            try:
                yield f"line {number}", json.loads(line.decode("utf-8-sig"))
            except ValueError as error:
                raise DataFormatError(
                    f"{source.shown}, line {number} is not JSON ({error}): {quoted(line)}. Expected one object a line."
                ) from error


def _of_array(source: JsonFile) -> Iterator[tuple[str, Any]]:
    decoder, text = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8-sig")("replace")
    with opened(source.plain, source.shown) as content:
        read = content.read(_PIECE)
        buffer = text.decode(read).lstrip()[1:]
        for number in itertools.count(1):
            piece = _PIECE
            while True:
                buffer = buffer.lstrip(" \t\r\n,")
                if buffer.startswith("]"):
                    return
                try:
                    value, end = decoder.raw_decode(buffer)
                    if end < len(buffer) or not read:  # else the value may go on in the next piece
                        break
                except ValueError as error:
                    if not read or len(buffer) > LONGEST_OBJECT:
                        raise DataFormatError(
                            f"{source.shown} begins with [, but object {number} of the array is not JSON ({error}): "
                            f"{quoted(buffer)}. Expected one array of objects, or one object a line with no commas between."
                        ) from error
                read = content.read(piece)
                buffer += text.decode(read)
                piece *= 2
            yield f"object {number} of the array", value
            buffer = buffer[end:]


def _is_dictionary(line: str) -> bool:
    try:
        return isinstance(_literal(line), dict)
    except ValueError:
        return False


def _literal(line: str) -> Any:
    """The value of a Python literal; nothing is evaluated.

    Raises:
        ValueError: the line is no literal, or too long or too deep to be parsed.
    """
    if len(line) > LONGEST_LITERAL:
        raise ValueError(f"longer than {LONGEST_LITERAL:,} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of backslashes in the strings
            return ast.literal_eval(line.strip())
    except (ValueError, TypeError) as error:
        raise ValueError("it holds more than literals") from error
    except SyntaxError as error:
        raise ValueError(error.msg) from error
    except (MemoryError, RecursionError) as error:
        raise ValueError("its values are too deep within each other") from error


def _dictionaries_to_json(plain: Path, scratch: Path, shown: Path) -> Path:
    """A copy of the file with every line, a Python dictionary, as a JSON object on the same line."""
    target = scratch_copy(shown, scratch, "json")
    if target.exists():
        return target
    partial = target.with_name(f"{target.name}.partial")
    with opened(plain, shown) as content, partial.open("w", encoding="utf-8") as out:
        lines = iter(lambda: content.readline(LONGEST_LITERAL + 1), b"")
        for number, line in enumerate(lines, start=1):
            try:
                out.write(_as_json(line.decode("utf-8-sig")) + "\n")
            except ValueError as error:
                raise DataFormatError(
                    f"{shown}, line {number} is no Python dictionary of texts, numbers and lists, as line 1 is ({error}): "
                    f"{quoted(line)}. Mend the line, or fetch the file again."
                ) from error
    return partial.replace(target)


def _as_json(line: str) -> str:
    if not line.strip():
        return ""
    value = _literal(line)
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}")
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ValueError(str(error)) from error
    text.encode()  # a lone surrogate is a ValueError
    return text
