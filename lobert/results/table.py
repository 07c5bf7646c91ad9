"""The table of runs: one row for each run, or for each group of runs that differ by their seed alone."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from lobert.errors import LobertError
from lobert.results.cells import BEST, TIMED, best_groups, cell_of, words
from lobert.results.columns import BY_KEY, COLUMNS, Column, chosen_columns
from lobert.results.grid import Cell, Grid, Head, csv_of, latex_of, markdown_of, printable, render, text_of
from lobert.results.groups import RunGroup, group_records, in_words, protocol
from lobert.results.notes import (
    SINGLE,
    Protocols,
    is_uncertain,
    read_protocols,
    told_latency,
    told_many,
    told_repeats,
    told_single,
    varying_settings,
)
from lobert.results.record import Record

__all__ = ["Row", "as_csv", "as_latex", "as_markdown", "as_text", "in_order", "render", "run_grid"]

WIDTH = 160  # of a text table, where that can be helped
SIZE = BY_KEY["keep_targets"]


@dataclass(frozen=True)
class Row:
    """What a row shows of the group `whole`: all, or one run; `note` is how its protocol differs."""

    group: RunGroup
    whole: RunGroup
    note: str
    marks: str

    @property
    def first(self) -> Record:
        return self.group.first


Stripe = tuple[Head, list[Cell]]  # a column: one cell for each row


def as_text(records: Sequence[Record], width: int | None = WIDTH) -> str:
    """A table for the terminal; what all runs share stands above it instead of in columns."""
    return text_of(run_grid(records), width)


def as_markdown(records: Sequence[Record]) -> str:
    """A GitHub-flavoured table."""
    return markdown_of(run_grid(records))


def as_latex(records: Sequence[Record]) -> str:
    """A table for a document that uses booktabs."""
    return latex_of(run_grid(records))


def as_csv(records: Sequence[Record]) -> str:
    """Every column, unrounded, under its key; scores and shares are fractions."""
    return csv_of(run_grid(records, complete=True))


def run_grid(
    records: Sequence[Record], each: bool = False, names: Sequence[str] | None = None, complete: bool = False
) -> Grid:
    """The table, over seeds where a group has several; `each` has a row for each run.

    `names` are the keys of the columns that are shown besides what tells runs apart; `complete` shows all, as CSV does.

    Raises:
        LobertError: there is no column of one of the names, or no record.
    """
    groups = in_order(group_records(records))
    if not groups:
        raise LobertError("there is no run to make a table of")
    each = each or all(group.single and not group.repeats for group in groups)
    protocols = read_protocols(groups)
    rows = _rows(groups, protocols, each)
    settings = varying_settings(groups) if protocols.many and not complete else []
    measures = _measures(rows, _shown(rows, names, complete), names or ())
    stripes = [*_identity(rows, each, complete, names or ()), *_seeds(rows, each, complete)]
    stripes += [*(_setting(rows, name) for name in settings), *measures]
    stripes += [_protocol(rows)] if complete else []
    heads, columns = zip(*stripes, strict=True)
    return Grid(
        heads,
        list(zip(*columns, strict=True)),
        caption=_caption(rows[0].first, heads, each),
        notes=_notes(groups, protocols, heads),
        best=BEST if any(cell.best for cells in columns for cell in cells) else "",
        sections=frozenset(n for n in range(1, len(rows)) if rows[n].first.task != rows[n - 1].first.task),
    )


def in_order(groups: Sequence[RunGroup]) -> list[RunGroup]:
    """By task, compression, and the share kept (largest first), then encoder, distillation and seed."""
    return sorted(groups, key=lambda g: _place(g.first))


def _place(r: Record) -> tuple[Hashable, ...]:
    return r.task, r.decomp, -(r.keep_targets or 0), r.encoder, r.kd, r.seed


def _rows(groups: Sequence[RunGroup], protocols: Protocols, each: bool) -> list[Row]:
    letters = {} if protocols.many else protocols.letters
    return [
        Row(shown, group, note, (SINGLE if is_uncertain(group) else "") + letters.get(note, ""))
        for group, note in zip(groups, protocols.notes, strict=True)
        for shown in (_runs(group) if each else [group])
    ]


def _notes(groups: Sequence[RunGroup], protocols: Protocols, heads: Sequence[Head]) -> list[str]:
    return [
        *told_single(groups),
        *(told_many(groups) if protocols.many else protocols.told()),
        *told_repeats(groups),
        *(told_latency(groups) if any(head.key in TIMED for head in heads) else []),
    ]


def _runs(group: RunGroup) -> list[RunGroup]:
    runs = sorted([*group.records, *group.repeats], key=lambda r: (r.seed, r.created))
    return [RunGroup((record,)) for record in runs]


def _shown(rows: Sequence[Row], names: Sequence[str] | None, complete: bool) -> list[Column]:
    """The columns of numbers and facts, without those where no run has one."""
    if names is not None:
        chosen = [column for column in chosen_columns(names) if not column.identity]
        told = len({SIZE.value(row.first) for row in rows}) < 2 or SIZE in chosen
        return chosen if told else [SIZE, *chosen]  # methods have rows of several sizes
    facts = [column for column in COLUMNS if not column.identity and (complete or column.place)]
    return [c for c in facts if complete or any(c.value(r) is not None for row in rows for r in row.group.records)]


def _identity(rows: Sequence[Row], each: bool, complete: bool, names: Sequence[str]) -> list[Stripe]:
    """What tells the rows apart."""
    stripes = []
    for column in COLUMNS:
        values = [column.value(row.first) for row in rows]
        wanted = complete or column.key in names or len(set(values)) > 1 or (column.key == "decomp")
        if column.identity and wanted and (each or column.key != "seed"):
            stripes.append((Head(column.key, column.title, True), [words(value) for value in values]))
    return stripes


def _seeds(rows: Sequence[Row], each: bool, complete: bool) -> list[Stripe]:
    """Over how many seeds a row is, and over which."""
    if each:
        return []
    counts = [len(row.group.records) for row in rows]
    stripes = [(Head("n", "n"), [Cell(str(number), {"": number}) for number in counts])]
    seeds = [words(" ".join(map(str, row.group.seeds))) for row in rows]
    return [*stripes, (Head("seeds", "seeds", True), seeds)] if complete else stripes


def _setting(rows: Sequence[Row], name: str) -> Stripe:
    """A setting of the protocol, where so many differ that they are told in columns."""
    values = [protocol(row.first).get(name) for row in rows]
    return Head(name, "\n".join(name.split(" ")), True), [Cell(printable(in_words(value))) for value in values]


def _measures(rows: Sequence[Row], columns: Sequence[Column], chosen: Sequence[str]) -> list[Stripe]:
    marked = next((c for c in columns if c.key == "score"), columns[0] if columns else None)
    rivals = all(row.group is row.whole or row.whole.single for row in rows)  # a seed is not better than another
    stripes = []
    for column in columns:
        best = best_groups([row.group for row in rows], column, [row.note for row in rows]) if rivals else set()
        spread = column.key == "score" or column.key in chosen
        cells = [
            cell_of(row.group, column, spread, number in best, row.marks if column is marked else "")
            for number, row in enumerate(rows)
        ]
        place = 0 if column.key in chosen else column.place
        stripes.append((Head(column.key, column.title, column.form is None, place), cells))
    return stripes


def _protocol(rows: Sequence[Row]) -> Stripe:
    return Head("protocol", "protocol", True), [words(row.note or None) for row in rows]


def _caption(first: Record, heads: Sequence[Head], each: bool) -> str:
    """What all runs share."""
    there = {head.key for head in heads}
    told = [c for c in COLUMNS if c.told and c.key not in there and (each or c.key != "seed")]
    return " · ".join(f"{c.key} {printable(c.value(first))}" for c in told)
