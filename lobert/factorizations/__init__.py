"""Low-rank and tensor factorizations: one small class per file, all derived from one einsum equation each."""

from lobert.errors import LobertError, suggest
from lobert.factorizations.base import Bond, Factorization, Heads, Rank, RankSetting, Shape, reconstruct, relative_error
from lobert.factorizations.basis import Basis
from lobert.factorizations.cp import CP
from lobert.factorizations.dense import Dense
from lobert.factorizations.falcon import Falcon
from lobert.factorizations.headed import Headed
from lobert.factorizations.pivoted import Pivoted
from lobert.factorizations.svd import SVD
from lobert.factorizations.tt import TensorTrain
from lobert.factorizations.tucker import Tucker

METHODS = (SVD(), Falcon(), Tucker(), CP(), TensorTrain(), Basis(), Dense())
PIVOTED = tuple(Pivoted(method) for method in METHODS if method.name in ("svd", "tucker", "tt", "basis"))
FACTORIZATIONS: dict[str, Factorization] = {method.name: method for method in (*METHODS, *PIVOTED)}


def factorization(name: str) -> Factorization:
    """The factorization of this name; LobertError with the nearest names where there is none."""
    if name not in FACTORIZATIONS:
        raise LobertError(f"no factorization '{name}': {suggest(name, FACTORIZATIONS)}")
    return FACTORIZATIONS[name]


__all__ = [
    "CP",
    "FACTORIZATIONS",
    "SVD",
    "Basis",
    "Bond",
    "Dense",
    "Factorization",
    "Falcon",
    "Headed",
    "Heads",
    "Pivoted",
    "Rank",
    "RankSetting",
    "Shape",
    "TensorTrain",
    "Tucker",
    "factorization",
    "reconstruct",
    "relative_error",
]
