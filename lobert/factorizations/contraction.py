"""An einsum of several operands as a path of products of two; the letter `n` counts tokens."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

from lobert.factorizations.product import Product, is_rowwise, product_by

Step = tuple[int, int, str]
TOKENS = "n"


@dataclass(frozen=True)
class Path:
    """Pairwise steps `(left, right, equation)`: both operands leave the list and the result goes to its end.

    Attributes:
        forming: multiply-adds of the steps that no token takes part in.
        running: those of the others.
        common: numbers of the steps whose results are the same for all slices that read one input.
        calls: the steps with what computes them.
        rowwise: whether the input may have any number of leading modes in place of that of the tokens.
    """

    steps: tuple[Step, ...]
    forming: int = 0
    running: int = 0
    common: frozenset[int] = frozenset()
    calls: tuple[tuple[int, int, Product], ...] = field(init=False, repr=False, compare=False)
    rowwise: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        calls = tuple((left, right, product_by(equation)) for left, right, equation in self.steps)
        rowwise = all(is_rowwise(equation) for _, _, equation in self.steps if TOKENS in equation)
        object.__setattr__(self, "calls", calls)
        object.__setattr__(self, "rowwise", rowwise)

    @property
    def multiply_adds(self) -> int:
        return self.forming + self.running

    def without(self, letters: str) -> "Path":
        """The same steps where operands lack these letters; it has no costs."""
        return Path(
            tuple(
                (left, right, equation.translate(dict.fromkeys(map(ord, letters))))
                for left, right, equation in self.steps
            )
        )


def contract(
    path: Path, operands: Iterable[Tensor], results: dict[int, Tensor] | None = None, bias: Tensor | None = None
) -> Tensor:
    """Run the operands through the path; `bias` is added to the last mode of the outcome.

    `results` holds what common steps gave before, by number: those are not computed again, and missing ones are added.
    """
    return run(path, operands, results, bias)[0]


def run(
    path: Path, operands: Iterable[Tensor], results: dict[int, Tensor] | None = None, bias: Tensor | None = None
) -> list[Tensor]:
    """As `contract`, for a path that may leave several operands."""
    pool = list(operands)
    for number, (left, right, multiply) in enumerate(path.calls):
        second, first = pool.pop(right), pool.pop(left)
        result = None if results is None else results.get(number)
        if result is None:
            result = multiply(first, second, None if pool else bias)
            if results is not None and number in path.common:
                results[number] = result
        pool.append(result)
    return pool


def leading(term: str, letters: str) -> str:
    """The term with those of some letters that it has in front, in their order."""
    return "".join(sorted(term, key=lambda letter: letters.find(letter) % (len(letters) + 1)))
