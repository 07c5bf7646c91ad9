"""What a file holds, as text: what is no text at all is named for what it is."""

import logging
from pathlib import Path

from lobert.errors import LobertError

log = logging.getLogger(__name__)

# The first bytes of what is often found in the place of a text file.
MAGIC = {
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"PK\x03\x04": "a zip archive or a spreadsheet: unpack it, or save the table as .csv",
    b"BZh": "compressed by bzip2: unpack it first",
    b"\xfd7zXZ": "compressed by xz: unpack it first",
    b"\xff\xfe": "text in UTF-16: save it as UTF-8",
    b"\xfe\xff": "text in UTF-16: save it as UTF-8",
    b"PAR1": "a Parquet table: name it .parquet",
    b"version https://git-lfs": "only a pointer of Git LFS: fetch the file itself (git lfs pull)",
}
WEB_PAGE = ("<!doctype html", "<html")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte-order mark (GLUE's MRPC starts with one); line ends as they are.

    Raises:
        LobertError: the file is not there, is no file, or is not text in UTF-8.
    """
    content = read_bytes(path)
    for start, what in MAGIC.items():
        if content.startswith(start):
            raise LobertError(f"{path} is {what}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise LobertError(
            f"{path} is not UTF-8 at line {line}, byte {error.start}: convert it, or download it again"
        ) from None
    if text[:100].lstrip().lower().startswith(WEB_PAGE):
        raise LobertError(f"{path} is a web page, not data: download the file itself")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise LobertError(f"{path}, line {line}: there is a null byte, so the file is damaged: download it again")
    return text


def read_bytes(path: Path) -> bytes:
    """The content of a file; LobertError where it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise LobertError(f"no file {path}") from None
    except IsADirectoryError:
        raise LobertError(f"{path} is a folder where a file is expected") from None
    except OSError as error:
        raise LobertError(f"{path} cannot be read: {error.strerror}") from None


def warn_of_a_cut(path: Path, text: str) -> None:
    """Say so where the last line has no end: what is missing after it cannot be seen."""
    if text and not text.endswith(("\n", "\r")):
        log.warning("%s: the last line has no line end; if the file was cut short, get it again", path)
