"""The teachers that a job tries: one, or one for each combination of the settings that are given as lists."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from lobert.errors import LobertError
from lobert.training.settings import Training

BROUGHT = ("path", "labels", "force")  # settings of a teacher that is brought along


@dataclass(frozen=True)
class Candidate:
    """One way to fine-tune a teacher; its seed draws the head and the order of the examples."""

    training: Training
    seed: int


def read_candidates(settings: Mapping[str, Any]) -> list[Candidate]:
    """All combinations of the lists in the section `teacher`, in the order they are written in.

    Raises LobertError for a value that will not do, an empty list, or training for no epoch.
    """
    trained = {name: value for name, value in settings.items() if name not in BROUGHT}
    lists = {name: value if isinstance(value, list) else [value] for name, value in trained.items()}
    for name, values in lists.items():
        if not values or len({repr(value) for value in values}) < len(values):
            raise LobertError(f"teacher.{name}={values} will not do: give one value, or a list of different ones")
    return [read_candidate(dict(zip(lists, values, strict=True))) for values in product(*lists.values())]


def read_candidate(settings: Mapping[str, Any]) -> Candidate:
    """One combination, checked."""
    seed = settings["seed"]
    if type(seed) is not int or seed < 0:
        raise LobertError(f"teacher.seed={seed} will not do: give a whole number, 0 or more")
    if settings["epochs"] == 0:
        raise LobertError("teacher.epochs=0 will not do: a teacher that has seen no example knows nothing of the task")
    return Candidate(read_training("teacher", {key: value for key, value in settings.items() if key != "seed"}), seed)


def read_training(who: str, settings: Mapping[str, Any]) -> Training:
    """Training settings, with the section's name in front of a complaint."""
    try:
        return Training(**settings)
    except LobertError as error:
        raise LobertError(f"{who}.{error}") from None
    except TypeError:
        listed = ", ".join(f"{name}={value}" for name, value in settings.items())
        raise LobertError(f"{who} has a setting that is not a number: {listed}") from None


def differences(candidates: list[Candidate]) -> list[dict[str, Any]]:
    """Of each candidate, the settings in which they differ."""
    rows = [{**asdict(candidate.training), "seed": candidate.seed} for candidate in candidates]
    varied = [name for name in rows[0] if len({row[name] for row in rows}) > 1]
    return [{name: row[name] for name in varied} for row in rows]
