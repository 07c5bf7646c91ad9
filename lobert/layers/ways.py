"""Which way the slices of a tensor get their products: in which order through the factors, or by merged weights."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from lobert.factorizations import Shape
from lobert.factorizations.base import rank_letters
from lobert.factorizations.contraction import TOKENS, Path
from lobert.factorizations.orders import again, cheapest_path, once
from lobert.factorizations.product import is_matrix_product
from lobert.layers.halves import ROLE, Halves, halves
from lobert.layers.tracing import TRACED_BATCH

Evaluation = Literal["auto", "contract", "merge"]
EVALUATIONS: tuple[Evaluation, ...] = ("auto", "contract", "merge")
LAYER = "l"
LARGE_BATCH = 1 << 20  # tokens, for which costs per token are told
MOST_WAYS = 4096


class Way(NamedTuple):
    """How the slices get their products: through the factors, or by merged weights.

    Attributes:
        multiply_adds: of one pass of as many tokens through all slices; in evaluation without what is formed once.
        halves: what to form for all slices, and how each goes on with it, and with its input where it does not merge.
    """

    merges: bool
    multiply_adds: int
    halves: Halves


class Ways:
    """Those of a tensor with the letters `stack` before `oi`, whose equation has factors of these shapes.

    Where `tokens` are asked for, each input has so many, and is read by `sharers` slices, which differ in role.
    """

    def __init__(self, equation: str, stack: str, shapes: Sequence[Shape], evaluation: Evaluation = "auto") -> None:
        self.stack, self.evaluation = stack, evaluation
        self.terms = equation.split("->")[0].split(",")
        self.sizes = {
            c: n for term, factor in zip(self.terms, shapes, strict=True) for c, n in zip(term, factor, strict=True)
        }
        self.ones = spare_letters(self.terms, [c for c in rank_letters(equation) if self.sizes[c] == 1])
        self.needed = tuple(without(term, self.ones) for term in self.terms)
        self.layer = LAYER if LAYER in stack else ""
        self.inputs = self.sizes.get(LAYER, 1)  # that slices read, where all roles share theirs
        self._known: dict[tuple[Evaluation, int, bool, int], Way] = {}
        self._traced: dict[tuple[Evaluation, int], Way] = {}  # apart: torch.compile watches what it is looked up in

    @property
    def input_term(self) -> str:
        """The letters of the inputs: every layer has its own."""
        return TOKENS + self.layer + "i"

    def contract_path(self, tokens: int, training: bool, sharers: int = 1) -> Path:
        """Cheapest order that runs the inputs of all slices through the factors."""
        output = "".join(letter for letter in self.stack if letter == ROLE) + TOKENS + self.layer + "o"
        sizes, cost = self._sizes(sharers, tokens), once if training else again
        return cheapest_path((*self.needed, self.input_term), output, sizes, may_merge=False, cost=cost)

    def merge_path(self, sharers: int = 1) -> Path:
        """Cheapest order that forms the weights of all slices."""
        return cheapest_path(self.needed, self.stack + "oi", self._sizes(sharers))

    def _sizes(self, sharers: int, tokens: int = 1) -> tuple[tuple[str, int], ...]:
        return tuple(sorted({**self.sizes, ROLE: sharers, TOKENS: tokens}.items()))

    def merges(self, tokens: int, training: bool, sharers: int = 1) -> bool:
        """Whether merged weights cost fewer multiply-adds.

        In training the weights have to be formed in every pass; in evaluation what no token enters is kept.
        """
        if self.evaluation != "auto":
            return self.evaluation == "merge"
        return self._cost(tokens, training, sharers, True) < self._cost(tokens, training, sharers, False)

    def _cost(self, tokens: int, training: bool, sharers: int, merged: bool) -> int:
        """Multiply-adds of a pass through all slices."""
        path = self.merge_path(sharers) if merged else self.contract_path(tokens, training, sharers)
        products = self.inputs * sharers * tokens * self.sizes["o"] * self.sizes["i"] if merged else path.running
        return products + (path.forming if training else 0)

    def way(self, tokens: int, training: bool, sharers: int = 1) -> Way:
        """How to get the products, remembered for every size of batch."""
        asked = (self.evaluation, tokens, training, sharers)
        if asked not in self._known:
            if len(self._known) == MOST_WAYS:
                self._known.clear()
            self._known[asked] = self._found(tokens, training, sharers)
        return self._known[asked]

    def traced(self, sharers: int = 1) -> Way:
        """How a graph gets them that is written down for batches of any size, and forms what it needs in every pass."""
        asked = (self.evaluation, sharers)
        if asked not in self._traced:
            self._traced[asked] = self._found(TRACED_BATCH, True, sharers)
        return self._traced[asked]

    def _found(self, tokens: int, training: bool, sharers: int) -> Way:
        merges = self.merges(tokens, training, sharers)
        path = self.merge_path(sharers) if merges else self.contract_path(tokens, training, sharers)
        terms = self.needed if merges else (*self.needed, self.input_term)
        parted = halves(path, terms, self.stack, self._joins_in_training if training else lambda _: True)
        return Way(merges, self._cost(tokens, training, sharers, merges), parted)

    def _joins_in_training(self, equation: str) -> bool:
        """Whether a step is for all slices together: one product of matrices, or else the same for all layers.

        Others take no more time slice by slice, and then their results are in the cache where they are needed.
        """
        return is_matrix_product(equation) or (bool(self.layer) and self.layer not in equation)

    def macs_per_token(self, sharers: int = 1) -> int:
        """Multiply-adds of `sharers` slices together per token in evaluation, in a large batch."""
        merges = self.merges(LARGE_BATCH, False, sharers)
        return round(self._cost(LARGE_BATCH, False, sharers, merges) / (self.inputs * LARGE_BATCH))


def spare_letters(terms: Sequence[str], letters: Iterable[str]) -> str:
    """Those of some letters of size 1 without which the equation says the same, and no term is empty."""
    spare = ""
    for letter in letters:
        if all(without(term, spare + letter) for term in terms):
            spare += letter
    return spare


def without(term: str, letters: str) -> str:
    return "".join(letter for letter in term if letter not in letters)
