"""Readers of tables, one for each format: TSV as GLUE has it, CSV, JSON lines, Parquet, RACE's folders of texts.

A new format is one function and one entry of FORMATS.
"""

import csv
import io
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet

from lobert.data.files import read_bytes, read_text, warn_of_a_cut
from lobert.data.tables import Table, require
from lobert.errors import LobertError, first_line, suggest

log = logging.getLogger(__name__)
NumberedRows = Iterator[tuple[int, list[str]]]


@dataclass(frozen=True)
class Request:
    """What is wanted of a file.

    Attributes:
        columns: their names.
        header: names of all columns, in order, of a file without a header.
        skip_incomplete: leave out rows with too few fields.
        extra_fields: let rows have more fields than the header, and pay no heed to those.
    """

    columns: Sequence[str]
    header: Sequence[str] | None = None
    skip_incomplete: bool = False
    extra_fields: bool = False


def read_table(path: Path, request: Request, format: str | None = None) -> Table:
    """The wanted columns of a file, or folder, in the format named or told by its ending.

    Raises:
        LobertError: an unknown format, a file that is not there or not in it, a missing column, no rows.
    """
    kind = format or path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise LobertError(f"{path}: no data format ends in '{path.suffix}': {suggest(kind, FORMATS)}")
    return FORMATS[kind](path, request)


# ---- rows of text ----


def read_tsv(path: Path, request: Request) -> Table:
    """Tab-separated as GLUE has it: quotes are text, nothing is a missing value."""
    text = read_text(path)
    warn_of_a_cut(path, text)
    # As Python opens text files, and so as the hub's copies were made: a lone carriage return ends a line, too.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n").split("\n")
    return rows_to_table(path, request, ((i, line.split("\t")) for i, line in enumerate(lines, 1) if line))


def read_csv(path: Path, request: Request) -> Table:
    """Comma-separated (RFC 4180): a quoted field may hold commas, line ends and doubled quotes."""
    text = read_text(path)
    warn_of_a_cut(path, text)
    return rows_to_table(path, request, iter(csv_rows(path, text)))


def csv_rows(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Rows with the number of the line they start on."""
    rows: list[tuple[int, list[str]]] = []
    before = csv.field_size_limit(sys.maxsize)  # a global limit of 131,072 characters
    reader, line = csv.reader(io.StringIO(text, newline=""), strict=True), 1
    try:
        for row in reader:
            if row:
                rows.append((line, row))
            line = reader.line_num + 1
    except csv.Error as error:
        raise LobertError(f"{path}, line {line}: {error}: is a quote missing, or the file cut short?") from None
    finally:
        csv.field_size_limit(before)
    return rows


def rows_to_table(path: Path, request: Request, rows: NumberedRows) -> Table:
    """The wanted columns of rows of fields, the first of which is the header unless the request has it."""
    header = request.header or next(rows, (0, []))[1]
    require_any(path, header)
    require(str(path), request.columns, header)
    whole = list(complete(path, len(header), rows, request))
    if not whole:
        raise LobertError(f"{path} has no rows: download or write it again")
    places = {name: list(header).index(name) for name in request.columns}
    lines = [line for line, _ in whole]
    columns = {name: [row[place] for _, row in whole] for name, place in places.items()}
    return Table(str(path), columns, lambda i: f"{path}, line {lines[i]}")


def require_any(path: Path, header: Sequence[str]) -> None:
    if not any(header):
        raise LobertError(f"{path} has no rows: it is empty")


def complete(path: Path, width: int, rows: NumberedRows, request: Request) -> NumberedRows:
    """The rows that have all fields; the others are an error, or left out, as the request says."""
    skipped = 0
    for line, row in rows:
        if len(row) == width or (len(row) > width and (request.extra_fields or not any(row[width:]))):
            yield line, row
        elif request.skip_incomplete and len(row) < width:
            skipped += 1
        else:
            raise LobertError(f"{path}, line {line}: {len(row)} fields where {width} are expected")
    if skipped:
        log.warning("%s: left out %d incomplete rows, as the hub's copy does", path, skipped)


# ---- objects ----


def read_jsonl(path: Path, request: Request) -> Table:
    """One JSON object a line."""
    rows = [(i, parse_object(path, i, line)) for i, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    if not rows:
        raise LobertError(f"{path} has no rows: it is empty")
    require(str(path), request.columns, rows[0][1])
    for line, row in rows:
        for name in request.columns:
            if name not in row:
                raise LobertError(f"{path}, line {line}: there is no '{name}'")
    columns = {name: [row[name] for _, row in rows] for name in request.columns}
    return Table(str(path), columns, lambda i: f"{path}, line {rows[i][0]}")


def parse_object(path: Path, line: int, text: str) -> dict[str, Any]:
    """A line as a JSON object; LobertError where it is none."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LobertError(f"{path}, line {line}: this is no JSON ({first_line(error)})") from None
    if not isinstance(row, dict):
        raise LobertError(f"{path}, line {line}: this is no JSON object with named values")
    return row


def read_parquet(path: Path, request: Request) -> Table:
    """A Parquet table; rows are counted from 1."""
    content = read_bytes(path)
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(content))
        require(str(path), request.columns, file.schema_arrow.names)
        table = file.read(list(request.columns))
    except (pyarrow.ArrowException, OSError) as error:
        raise LobertError(f"{path} is no whole Parquet file: {first_line(error)}") from None
    if not len(table):
        raise LobertError(f"{path} has no rows")
    columns = {name: table.column(name).to_pylist() for name in request.columns}
    return Table(str(path), columns, lambda i: f"{path}, row {i + 1}")


# ---- RACE ----


def read_race(folder: Path, request: Request) -> Table:
    """RACE as distributed: a text a file, JSON with its article, questions, options and answers (Lai et al. 2017).

    Columns: article, question, options, answer, example_id ("high1.txt"), by which the rows are sorted.
    """
    if not folder.is_dir():
        raise LobertError(f"no folder {folder}: RACE has one file for each text there")
    files = sorted(folder.rglob("*.txt"), key=race_id)
    rows = [row for path in files for row in race_questions(path)]
    if not rows:
        raise LobertError(f"{folder} has no texts: it must hold files such as 1.txt")
    require(str(folder), request.columns, ("article", "question", "options", "answer", "example_id"))
    columns = {name: [row[name] for row in rows] for name in request.columns}
    return Table(str(folder), columns, lambda i: rows[i]["where"])


def race_id(path: Path) -> str:
    """A text's name in the whole data set."""
    return path.parent.name + path.name


def race_questions(path: Path) -> Iterable[dict[str, Any]]:
    """The questions of one text."""
    text = parse_object(path, 1, read_text(path))
    lists = [text.get(name) for name in ("questions", "options", "answers")]
    if not all(isinstance(values, list) for values in lists) or len({len(values or []) for values in lists}) > 1:
        raise LobertError(f"{path}: 'questions', 'options' and 'answers' must be lists of one length")
    require(str(path), ["article"], text)
    for number, (question, options, answer) in enumerate(zip(*lists, strict=True), 1):
        row = {"article": text["article"], "question": question, "options": options, "answer": answer}
        yield {**row, "example_id": race_id(path), "where": f"{path}, question {number}"}


FORMATS: dict[str, Callable[[Path, Request], Table]] = {
    "tsv": read_tsv,
    "txt": read_tsv,
    "csv": read_csv,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "race": read_race,
}
