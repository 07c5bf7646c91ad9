"""The command that makes a run again, from what its record says."""

import shlex
from collections.abc import Sequence

from lobert.results.record import Record

PROGRAM = ("python", "train.py")
SEED = "seed="


def commands(records: Sequence[Record]) -> list[str]:
    """The commands that make the runs again: a single one where only their seeds differ.

    Runs without overrides are left out: none is known of them.
    """
    known = [record for record in records if record.overrides]
    rest = {tuple(_without_seed(record)) for record in known}
    if len(known) > 1 and len(rest) == 1:
        seeds = ",".join(str(seed) for seed in sorted({record.seed for record in known}))
        return [shlex.join([*PROGRAM, "-m", *rest.pop(), f"{SEED}{seeds}"])]
    return list(dict.fromkeys(shlex.join([*PROGRAM, *record.overrides]) for record in known))


def _without_seed(record: Record) -> list[str]:
    return [override for override in record.overrides if not override.startswith(SEED)]
