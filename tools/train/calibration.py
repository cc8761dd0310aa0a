"""Calibration of a classifier: temperature and bias of "other", fitted to held-out photographs."""

import numpy as np
from scipy.special import log_softmax, softmax

OTHER_WEIGHT = 2.0
TEMPERATURES = np.exp(np.linspace(-2.0, 2.0, 401))
BIASES = np.linspace(-8.0, 4.0, 49)


def applied(logits, temperature, bias):
    """Add `bias` to the last column of `logits [N, K]`, and divide by `temperature`."""
    return (logits + bias * (np.arange(logits.shape[1]) == logits.shape[1] - 1)) / temperature


def log_loss(logits, labels, weights=None):
    """Return the mean negative log-probability of the labels, in nats."""
    return float(-np.average(log_softmax(logits, axis=1)[np.arange(len(labels)), labels], weights=weights))


def fit(logits, labels, has_other=False):
    """Return the (temperature, bias of the last column) that calibrate `logits [N, K]`, by grid search.

    At this temperature the mean confidence equals the accuracy. Without an "other" class the bias is 0. With one, the bias
    minimizes the log loss, where all "other" rows together have the weight of `OTHER_WEIGHT` classes, and the temperature is
    fitted to the other rows.
    """
    if not has_other:
        return matched_temperature(logits, labels), 0.0
    other = labels == logits.shape[1] - 1
    per_class = np.sum(~other) / (logits.shape[1] - 1)
    weights = np.where(other, OTHER_WEIGHT * per_class / max(1, other.sum()), 1.0)
    pairs = [(t, b) for t in TEMPERATURES[::4] for b in BIASES]
    _, bias = min(pairs, key=lambda pair: log_loss(applied(logits, *pair), labels, weights))
    return matched_temperature(applied(logits, 1.0, bias)[~other], labels[~other]), float(bias)


def fit_to_targets(logits, targets):
    """Return the (temperature, bias of the last column) with the least cross-entropy to soft `targets [N, K]`, by search."""
    loss = lambda pair: -np.mean(np.sum(targets * log_softmax(applied(logits, *pair), axis=1), axis=1))  # noqa: E731
    temperature, bias = min(((t, b) for t in TEMPERATURES[100:301:8] for b in BIASES), key=loss)
    return float(temperature), float(bias)


def matched_temperature(logits, labels):
    """Return the temperature at which the mean confidence equals the accuracy."""
    accuracy = np.mean(logits.argmax(1) == labels)
    return float(min(TEMPERATURES, key=lambda t: abs(softmax(logits / t, axis=1).max(1).mean() - accuracy)))


def cross_fitted(logits, labels, has_other=False):
    """Calibrate each half of the rows of `logits` on the other half, so that evaluations are not biased by the fit."""
    result = np.empty_like(logits)
    for half in (0, 1):
        mine = np.arange(len(labels)) % 2 == half
        result[mine] = applied(logits[mine], *fit(logits[~mine], labels[~mine], has_other))
    return result
