"""The scores of GLUE, as fractions, on whole splits at once."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats
from sklearn import metrics as sk

from lobert.errors import LobertError, suggest


def _correlation(measure: Callable[..., tuple[float, float]], predictions: np.ndarray, labels: np.ndarray) -> float:
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0  # a constant correlates with nothing; SciPy would say NaN
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nearly constant input
        value = float(measure(predictions, labels)[0])
    return value if np.isfinite(value) else 0.0


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose class is right."""
    return float(np.mean(predictions == labels))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1; 0 where neither side has any."""
    return float(sk.f1_score(labels, predictions, pos_label=1, average="binary", zero_division=0.0))


def matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews correlation of two classifications; 0 where either is constant."""
    return float(sk.matthews_corrcoef(labels, predictions))


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Linear correlation of two lists of scores; 0 where either is constant."""
    return _correlation(stats.pearsonr, predictions, labels)


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Rank correlation of two lists of scores; 0 where either is constant."""
    return _correlation(stats.spearmanr, predictions, labels)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    function.__name__: function for function in (accuracy, f1, matthews, pearson, spearman)
}

CORRELATIONS = ("pearson", "spearman")  # the metrics of scores; the others are of classes


def check_metrics(names: Sequence[str]) -> None:
    """Raise `LobertError` at the first name that is no metric."""
    for name in names:
        if name not in METRICS:
            raise LobertError(f"unknown metric '{name}': {suggest(name, METRICS)}")


def compute_metrics(names: Sequence[str], predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The named scores, in [0, 1] or [-1, 1].

    Args:
        names: keys of `METRICS`.
        predictions: `[n]` class ids, or scores for regression.
        labels: `[n]` of the same kind.

    Raises:
        LobertError: an unknown name, sizes that differ, no rows, or predictions that are not finite.
    """
    check_metrics(names)
    if predictions.shape != labels.shape or predictions.ndim != 1 or predictions.size == 0:
        raise LobertError(
            f"metrics need as many predictions as labels, at least one: got {predictions.shape} and {labels.shape}"
        )
    if bad := int(np.count_nonzero(~np.isfinite(predictions))):
        raise LobertError(
            f"{bad} of {predictions.size} predictions are not finite: training diverged, try a lower learning rate"
        )
    return {name: METRICS[name](predictions, labels) for name in names}
