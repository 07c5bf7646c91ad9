"""What a model scores that has learned nothing."""

import math

import numpy as np

from lobert.data.metrics import METRICS


def chance_level(metric: str, labels: np.ndarray, classes: int) -> tuple[float, float]:
    """Score of the best constant answer on `labels [n]`, and one standard error of a score there.

    Of accuracy and F1 the level is that of the best class, and the error that of a share of n examples, sqrt(p(1-p)/n);
    of a correlation the level is 0, and the error 1/sqrt(n), that of one between unrelated variables.
    `classes` is 0 for a regression.
    """
    constants = [np.full(len(labels), label) for label in range(classes)]
    level = max((METRICS[metric](constant, labels) for constant in constants), default=0.0)
    return level, math.sqrt((level * (1 - level) or 1.0) / len(labels))
