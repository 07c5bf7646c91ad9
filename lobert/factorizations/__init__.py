"""Low-rank and tensor factorizations: one small class per file, all derived from one einsum equation each."""

from lobert.errors import LobertError, suggest
from lobert.factorizations.base import Factorization, Rank, RankSetting, Shape, reconstruct, relative_error
from lobert.factorizations.basis import Basis
from lobert.factorizations.cp import CP
from lobert.factorizations.dense import Dense
from lobert.factorizations.falcon import Falcon
from lobert.factorizations.svd import SVD
from lobert.factorizations.tt import TensorTrain
from lobert.factorizations.tucker import Tucker

METHODS = (SVD, Falcon, Tucker, CP, TensorTrain, Basis, Dense)
FACTORIZATIONS: dict[str, Factorization] = {cls.name: cls() for cls in METHODS}


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
    "Dense",
    "Factorization",
    "Falcon",
    "Rank",
    "RankSetting",
    "Shape",
    "TensorTrain",
    "Tucker",
    "factorization",
    "reconstruct",
    "relative_error",
]
