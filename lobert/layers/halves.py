"""A path of all slices of a tensor in two: what all of them can have at once, and what each does with its own input."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lobert.factorizations.contraction import TOKENS, Path, Step, leading

ROLE = "s"
Numbered = tuple[int, int, int]  # a step: two operands and what comes of them, by their numbers


class Halves(NamedTuple):
    """`joint` runs the factors of all slices together and leaves operands with these `terms`, which letters of the
    stack lead; `each` runs one slice of them, without these letters, and behind them its input, if there is one.
    `alone` is `joint` for the factors of one slice.
    """

    joint: Path
    terms: tuple[str, ...]
    each: Path
    alone: Path


def halves(path: Path, terms: Sequence[str], stack: str, joins: Callable[[str], bool]) -> Halves:
    """Part a path whose operands have these terms: the steps without tokens whose equation `joins` accepts are joint.

    Others that need what such a step did not give are left to each slice, too.
    """
    known, pool = list(terms), list(range(len(terms)))
    factors = [number for number in pool if TOKENS not in terms[number]]
    inputs = [number for number in pool if TOKENS in terms[number]]
    formed = set(factors)
    joint, each = list[Numbered](), list[Numbered]()
    for left, right, equation in path.steps:
        b, a = pool.pop(right), pool.pop(left)
        result = leading(trailing(equation.split("->")[1], "oi"), TOKENS + stack)
        is_joint = {a, b} <= formed and joins(f"{known[a]},{known[b]}->{result}")
        (joint if is_joint else each).append((a, b, len(known)))
        if is_joint:
            formed.add(len(known))
        pool.append(len(known))
        known.append(result)
    for a, b, outcome in each:
        for number, other in ((a, b), (b, a)):
            if number in formed and number >= len(terms):
                known[number] = suited(known[number], known[other], known[outcome], stack)
    first = placed(joint, known, factors)  # `factors` are now those that are left
    bare = ["".join(letter for letter in term if letter not in stack) for term in known]
    common = frozenset(place for place, (a, b, _) in enumerate(each) if ROLE not in known[a] + known[b])
    second = placed(each, bare, [*factors, *inputs])
    whole = Path(first)
    operands = tuple(known[number] for number in factors)
    return Halves(whole, operands, Path(second, common=common), whole.without(stack))


def trailing(term: str, letters: str) -> str:
    """The term with those of some letters that it has at its end."""
    return "".join(sorted(term, key=letters.find))


def suited(term: str, other: str, output: str, stack: str) -> str:
    """The term in the order in which its product with another one reads it: as a matrix, without copies."""
    summed = "".join(letter for letter in term if letter in other and letter not in output)
    return leading(summed + "".join(letter for letter in output if letter in term), stack)


def placed(steps: Sequence[Numbered], terms: Sequence[str], pool: list[int]) -> tuple[Step, ...]:
    """Steps by numbers as steps by places in a pool, which is left as they leave it."""
    found = list[Step]()
    for a, b, result in steps:
        left, right = sorted((pool.index(a), pool.index(b)))
        found.append((left, right, f"{terms[pool[left]]},{terms[pool[right]]}->{terms[result]}"))
        del pool[right], pool[left]
        pool.append(result)
    return tuple(found)
