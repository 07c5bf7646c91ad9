"""What stands below a table: which rows cannot be compared and why, single seeds, repeated runs, how time was taken."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, product
from string import ascii_lowercase

from lobert.results.grid import printable
from lobert.results.groups import RunGroup, differences, in_words, protocol
from lobert.results.record import Record

SINGLE = "†"
SMALL_TASK = 10_000  # training examples
MOST_LETTERS = 6  # protocols that are told by letters; where there are more, what differs becomes columns

SCOPES: Mapping[str, Callable[[Record], Hashable]] = {  # which runs are measured against one another, in which part
    "data": lambda r: (r.task, r.encoder),
    "training": lambda r: (r.task, r.encoder, bool(r.epochs)),
    "distillation": lambda r: (r.task, r.encoder, bool(r.epochs), r.kd),
}


@dataclass(frozen=True)
class Protocols:
    """How the protocol of each group, by its place, differs from the commonest among its like: "" where it does not.

    `baselines` are the groups of the commonest data and teacher, by task and encoder.
    """

    notes: Sequence[str]
    baselines: Mapping[Hashable, RunGroup]

    @property
    def letters(self) -> dict[str, str]:
        """A letter for each note, in order of appearance."""
        return dict(zip(filter(None, dict.fromkeys(self.notes)), alphabet(), strict=False))

    @property
    def many(self) -> bool:
        """Whether there are too many for letters."""
        return len(self.letters) > MOST_LETTERS

    def told(self) -> list[str]:
        """A line for each letter."""
        return [
            f"{letter} not the protocol of the rest (theirs / here): {printable(note)}"
            for note, letter in self.letters.items()
        ]


def read_protocols(groups: Sequence[RunGroup]) -> Protocols:
    """Compare the protocols of the groups."""
    bases = {part: _baselines(groups, part) for part in SCOPES}
    notes = []
    for group in groups:
        found = (
            differences(bases[part][scope(group.first)].first, group.first, (part,)) for part, scope in SCOPES.items()
        )
        notes.append("; ".join(filter(None, found)))
    return Protocols(notes, bases["data"])


def varying_settings(groups: Sequence[RunGroup]) -> list[str]:
    """The names of what differs between protocols of the same task and encoder, as `protocol` names it."""
    seen: dict[Hashable, dict[str, set[str]]] = {}
    for group in groups:
        scope = SCOPES["distillation"](group.first)
        for name, value in protocol(group.first).items():
            seen.setdefault(scope, {}).setdefault(name, set()).add(in_words(value))
    names = dict.fromkeys(name for settings in seen.values() for name, values in settings.items() if len(values) > 1)
    return list(names)


def is_uncertain(group: RunGroup) -> bool:
    """Whether another seed could tell another story: one seed, and few training examples."""
    return group.single and group.first.train_examples < SMALL_TASK


def told_single(groups: Iterable[RunGroup]) -> list[str]:
    """Why groups are marked, if any is."""
    few = f"one seed, of a task with fewer than {SMALL_TASK:,} training examples"
    why = f"{few}: on MRPC, seeds were reported to differ by five points"
    return [f"{SINGLE} {why}"] if any(map(is_uncertain, groups)) else []


def told_repeats(groups: Iterable[RunGroup]) -> list[str]:
    """Which runs of a seed do not count because there is a later one."""
    repeats = [(group, record) for group in groups for record in group.repeats]
    return [
        f"{name_of(r)} ran again: that of {_kept(g, r).created} counts, not that of {r.created}" for g, r in repeats
    ]


def told_many(groups: Sequence[RunGroup]) -> list[str]:
    """That rows are not to be compared at once, where their settings stand in columns."""
    names = ", ".join(varying_settings(groups))
    return [f"several protocols: compare only rows of a task that agree in {names}"]


def told_latency(groups: Sequence[RunGroup]) -> list[str]:
    """What was timed where; one line for each batch, length and device."""
    tasks: dict[tuple[int, int, str], list[str]] = {}
    for record in (record for group in groups for record in group.records):
        if (setting := latency_setting(record)) is not None:
            tasks.setdefault(setting, []).append(record.task)
    mixed = any(len({latency_setting(r) for r in group.records} - {None}) > 1 for group in groups)
    return [
        f"time{_of(names) if len(tasks) > 1 else ''}: a batch of {batch} examples of {length} tokens on "
        f"{printable(device)}; the ratio is to the teacher's"
        for (batch, length, device), names in tasks.items()
    ] + ["no time where the seeds of a row were not timed alike"] * mixed


def latency_setting(record: Record) -> tuple[int, int, str] | None:
    """Batch, length and device that a run was timed with; None where it was not."""
    if record.latency is None:
        return None
    return record.latency["batch"], record.latency["length"], record.device


def name_of(record: Record) -> str:
    """A run in a few words."""
    size = "" if record.keep is None else f" keep {record.keep:g}"
    return printable(f"{record.task} {record.encoder} {record.decomp}{size} {record.kd} seed {record.seed}")


def alphabet() -> Iterable[str]:
    """a to z, then aa, ab, …"""
    return ("".join(letters) for length in count(1) for letters in product(ascii_lowercase, repeat=length))


def _baselines(groups: Sequence[RunGroup], part: str) -> dict[Hashable, RunGroup]:
    """For each scope the first group whose protocol, in this part, most groups have."""
    scope = SCOPES[part]
    members: dict[Hashable, list[RunGroup]] = {}
    for group in groups:
        members.setdefault(scope(group.first), []).append(group)
    return {key: _commonest(some, part) for key, some in members.items()}


def _commonest(groups: Sequence[RunGroup], part: str) -> RunGroup:
    told = [differences(groups[0].first, group.first, (part,)) for group in groups]
    return groups[told.index(Counter(told).most_common(1)[0][0])]


def _kept(group: RunGroup, repeat: Record) -> Record:
    return next(record for record in group.records if record.seed == repeat.seed)


def _of(tasks: Sequence[str]) -> str:
    counted = (f"{task} ({runs} run{'s' if runs > 1 else ''})" for task, runs in Counter(tasks).items())
    return f" of {', '.join(counted)}"
