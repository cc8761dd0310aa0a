"""How sure a classifier may be: the temperature and the weight of "other", fitted on held-out photographs."""

import numpy as np
from scipy.special import log_softmax, softmax

OTHER_WEIGHT = 2.0
TEMPERATURES = np.exp(np.linspace(-2.0, 2.0, 401))
BIASES = np.linspace(-8.0, 4.0, 49)


def applied(logits, temperature, bias):
    """`logits [N, K]` with `bias` added to the last column, divided by `temperature`."""
    return (logits + bias * (np.arange(logits.shape[1]) == logits.shape[1] - 1)) / temperature


def log_loss(logits, labels, weights=None):
    """Mean negative log-probability of the labels, in nats."""
    return float(-np.average(log_softmax(logits, axis=1)[np.arange(len(labels)), labels], weights=weights))


def fit(logits, labels, has_other=False):
    """The (temperature, bias of the last column) that calibrate `logits [N, K]`, by grids.

    The temperature is that at which the mean confidence is the accuracy. Without an "other" class the bias is 0; with one it
    is that of least log loss, all "other" rows together counting as much as those of `OTHER_WEIGHT` classes, and the
    temperature is that of the classes' rows.
    """
    if not has_other:
        return matched_temperature(logits, labels), 0.0
    other = labels == logits.shape[1] - 1
    per_class = np.sum(~other) / (logits.shape[1] - 1)
    weights = np.where(other, OTHER_WEIGHT * per_class / max(1, other.sum()), 1.0)
    pairs = [(t, b) for t in TEMPERATURES[::4] for b in BIASES]
    _, bias = min(pairs, key=lambda pair: log_loss(applied(logits, *pair), labels, weights))
    return matched_temperature(applied(logits, 1.0, bias)[~other], labels[~other]), float(bias)


def matched_temperature(logits, labels):
    """The temperature at which the mean largest probability is the share of rows whose label has it."""
    accuracy = np.mean(logits.argmax(1) == labels)
    return float(min(TEMPERATURES, key=lambda t: abs(softmax(logits / t, axis=1).max(1).mean() - accuracy)))


def cross_fitted(logits, labels, has_other=False):
    """`logits`, each half of the rows calibrated on the other half, so that no figure is flattered by its own fit."""
    result = np.empty_like(logits)
    for half in (0, 1):
        mine = np.arange(len(labels)) % 2 == half
        result[mine] = applied(logits[mine], *fit(logits[~mine], labels[~mine], has_other))
    return result
