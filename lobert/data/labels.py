"""Class names of models and tasks, matched by what they say and not by where they stand."""

import re
from collections.abc import Sequence

from lobert.errors import LobertError

# Words that say the same where a task asks one question; a task has one class of each at the most.
MEANINGS = tuple(
    frozenset(words.split())
    for words in (
        "entailment entail entails entailed equivalent paraphrase duplicate isduplicate same similar acceptable "
        "grammatical positive pos yes true",
        "notentailment nonentailment notentailed notequivalent notparaphrase nonparaphrase notduplicate different "
        "dissimilar unacceptable ungrammatical negative neg no false",
        "contradiction contradict contradicts contradicted contradictory",
        "neutral neither",
    )
)


def fold(name: str) -> str:
    """A name without case, spaces and signs."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def same_meaning(one: str, other: str) -> bool:
    """Whether two class names say the same."""
    one, other = fold(one), fold(other)
    return one == other or any(one in words and other in words for words in MEANINGS)


def is_numbered(names: Sequence[str]) -> bool:
    """Whether the names say nothing but their place: LABEL_0, LABEL_1, or 0, 1."""
    return [re.sub(r"^label", "", fold(name)) for name in names] == [str(i) for i in range(len(names))]


def match_labels(theirs: Sequence[str], ours: Sequence[str]) -> list[int] | None:
    """For each of our classes the place of the one of theirs that says the same; None unless that is one to one."""
    exact = [[i for i, name in enumerate(theirs) if fold(name) == fold(label)] for label in ours]
    meant = [[i for i, name in enumerate(theirs) if same_meaning(name, label)] for label in ours]
    places = [one if len(one) == 1 else other for one, other in zip(exact, meant, strict=True)]
    order = [place[0] for place in places if len(place) == 1]
    return order if sorted(order) == list(range(len(theirs))) and len(ours) == len(theirs) else None


def order_of(theirs: Sequence[str], ours: Sequence[str], named: Sequence[str] | None) -> list[int]:
    """The place in a model's logits of each of the task's classes.

    Args:
        theirs: class names of the model, in the order of its logits.
        ours: class names of the task, in id order.
        named: the task's names in the order of the model's logits, where a person says so.

    Raises LobertError where the numbers of classes differ, or the names cannot be matched one to one.
    """
    if len(theirs) != len(ours):
        raise LobertError(
            f"the teacher tells {len(theirs)} classes apart ({', '.join(theirs)}) and the task has {len(ours)} "
            f"({', '.join(ours) or 'a score'}): it is a teacher of another task"
        )
    names = theirs if named is None else named
    order = match_labels(names, ours)
    if order is None and named is None and is_numbered(theirs):
        return list(range(len(ours)))
    if order is None:
        whose = "the teacher's classes are" if named is None else "teacher.labels says"
        raise LobertError(
            f"{whose} {', '.join(names)}, which are not the task's: type teacher.labels=[{','.join(ours)}] in the "
            "order of the teacher's logits"
        )
    return order
