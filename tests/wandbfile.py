"""Reads back what W&B writes offline: a log of records in blocks of 32 KiB."""

import json
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEADER, BLOCK = 7, 32 * 1024
WHOLE, LAST = 1, 4  # kinds of a piece that end a record
PATIENCE = 60  # seconds


@dataclass
class Logged:
    """One run as it stands in its file."""

    name: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    started: float = 0.0
    folder: Path = Path()

    def values(self, key: str) -> list[Any]:
        """What was logged under a key, in order."""
        return [row[key] for row in self.history if key in row]

    def keys(self) -> set[str]:
        return {key for row in self.history for key in row}

    def table(self, key: str) -> list[dict[str, Any]]:
        """The rows of a table that was logged."""
        content = json.loads((self.folder / "files" / self.values(key)[-1]["path"]).read_text())
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def pieces(data: bytes) -> Iterator[bytes]:
    """The bytes of each record that is there in whole; asserts their checksums."""
    assert data[:4] == b":W&B"[: len(data)]
    place, record = HEADER, b""
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:  # too little of the block is left for a piece: it is padding
            place += left
            continue
        checksum, length, kind = struct.unpack_from("<IHB", data, place)
        body = data[place + HEADER : place + HEADER + length]
        if len(body) < length:
            return  # the rest is still to be written
        assert zlib.crc32(bytes([kind]) + body) == checksum
        place, record = place + HEADER + length, record + body
        if kind in (WHOLE, LAST):
            yield record
            record = b""


def put(target: dict[str, Any], item: Any) -> None:
    """Apply an update, whose key may be a path."""
    path = list(item.nested_key) or [item.key]
    for name in path[:-1]:
        target = target.setdefault(name, {})
    target[path[-1]] = json.loads(item.value_json)


def read_run(path: Path) -> Logged:
    """The run in a `.wandb` file."""
    from wandb.proto.wandb_internal_pb2 import Record

    run = Logged(folder=path.parent)
    for piece in pieces(path.read_bytes()):
        record = Record.FromString(piece)
        match record.WhichOneof("record_type"):
            case "run":
                run.name, run.group, run.job_type = (
                    record.run.display_name,
                    record.run.run_group,
                    record.run.job_type,
                )
                run.tags = list(record.run.tags)
                run.started = record.run.start_time.seconds + 1e-9 * record.run.start_time.nanos
                for item in record.run.config.update:
                    put(run.config, item)
            case "config":
                for item in record.config.update:
                    put(run.config, item)
            case "history":
                row: dict[str, Any] = {}
                for item in record.history.item:
                    put(row, item)
                run.history.append(row)
            case "summary":
                for item in record.summary.update:
                    put(run.summary, item)
            case "exit":
                run.exit_code = record.exit.exit_code
    return run


def finished(path: Path) -> Logged:
    """The run in a file, when its last record is there: W&B's own process writes it, after `finish` has returned.

    As it is where that does not come for a minute, without an exit code.
    """
    end = time.monotonic() + PATIENCE
    while (run := read_run(path)).exit_code is None and time.monotonic() < end:
        time.sleep(0.05)
    return run


def runs_in(folder: Path) -> list[Logged]:
    """Every run below a folder, in the order they were started."""
    runs = [finished(path) for path in folder.rglob("run-*.wandb")]
    return sorted(runs, key=lambda run: run.started)
