"""What GLUE's server takes: eleven files, how many rows each has and how it spells the answers.

Names and spellings are those of https://gluebenchmark.com/faq (question 1) and of the sample submission there; the
numbers of rows are those of the test files.
"""

import csv
import io
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lobert.errors import LobertError, first_line

HEADER = "index\tprediction"
ZERO_ONE, TWO_WAY = ("0", "1"), ("entailment", "not_entailment")
THREE_WAY = ("entailment", "neutral", "contradiction")
WRITTEN = (1980, 1, 1, 0, 0, 0)  # the date inside a zip, so that the same answers make the same bytes


@dataclass(frozen=True)
class GlueFile:
    """`rows` test examples, numbered from 0; `answers` are the possible ones, none for a score from 0 to 5.

    `filler` answers every example where a task is missing.
    """

    rows: int
    answers: tuple[str, ...]
    filler: str


GLUE_FILES = {
    "CoLA": GlueFile(1063, ZERO_ONE, "1"),
    "SST-2": GlueFile(1821, ZERO_ONE, "1"),
    "MRPC": GlueFile(1725, ZERO_ONE, "1"),
    "STS-B": GlueFile(1379, (), "2.500"),
    "QQP": GlueFile(390965, ZERO_ONE, "0"),
    "MNLI-m": GlueFile(9796, THREE_WAY, "contradiction"),
    "MNLI-mm": GlueFile(9847, THREE_WAY, "contradiction"),
    "QNLI": GlueFile(5463, TWO_WAY, "not_entailment"),
    "RTE": GlueFile(3000, TWO_WAY, "entailment"),
    "WNLI": GlueFile(146, ZERO_ONE, "0"),
    "AX": GlueFile(1104, THREE_WAY, "contradiction"),
}


def filled(name: str) -> str:
    """The content of a file for a task that nobody predicted: one answer throughout."""
    known = GLUE_FILES[name]
    return "\n".join([HEADER, *(f"{row}\t{known.filler}" for row in range(known.rows))]) + "\n"


def read_answers(path: Path) -> str:
    """The content of a file; LobertError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LobertError(f"{path} cannot be read ({first_line(error)}): run stage=predict again") from None


def check_answers(name: str, text: str, where: Path) -> None:
    """Raise LobertError where the content of a file is not what GLUE takes under this name."""
    known = GLUE_FILES[name]
    rows = list(csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))
    if not rows or "\t".join(rows[0]) != HEADER:
        raise LobertError(f"{where} does not begin with index<TAB>prediction: run stage=predict again")
    if len(rows) - 1 != known.rows:
        raise LobertError(
            f"{where} has {len(rows) - 1:,} answers where GLUE's {name} has {known.rows:,} test examples: "
            "predict from GLUE's own test file"
        )
    for number, row in enumerate(rows[1:]):
        if len(row) != 2 or row[0] != str(number) or not possible(known, row[1]):
            raise LobertError(
                f"{where}, line {number + 2}: '{' '.join(row)}' is no answer to example {number} of {name}"
            )


def possible(known: GlueFile, answer: str) -> bool:
    """Whether an answer is one of the classes, or a score from 0 to 5."""
    if known.answers:
        return answer in known.answers
    try:
        return 0 <= float(answer) <= 5
    except ValueError:
        return False


def write_zip(path: Path, files: Mapping[str, str]) -> None:
    """Write the files, without a folder, so that there is the whole zip or none; LobertError where that fails."""
    if path.is_dir():
        raise LobertError(f"{path} is a folder: name the zip, as in -o {path / 'submission.zip'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name, text in files.items():
                bundle.writestr(zipfile.ZipInfo(f"{name}.tsv", WRITTEN), text, zipfile.ZIP_DEFLATED)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
