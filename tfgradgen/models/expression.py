"""Composed conditions as probabilities: what `&`, `|`, `!` and a weight do to p(class | image).

LACE (Nie et al. 2021, "Controllable and Compositional Generation with Latent-Space Energy-Based Models", after Du et al. 2020)
composes energies E = -log p. Here every composition stays a probability, so that rejection from the prior remains exact:

    a & b   p(a) p(b)                  LACE's sum of energies, a product of experts
    a | b   p(a) + p(b)                LACE's -logsumexp(-E), for classes of one softmax, which exclude each other
            p(a) + p(b) - p(a) p(b)    for all else: `a` and `b` are taken as independent given the image
    !a      1 - p(a)                   LACE has -alpha E(a), that is p(a) ** -alpha: it has no bound and is no probability
    w*a     p(a) ** w                  w times the energy

De Morgan's laws hold where the general formula does: !(a | b) is !a & !b for sounds, but for classes that exclude each other
1 - p(a) - p(b) is less than (1 - p(a)) (1 - p(b)).

All is computed as log-odds, log(p / (1 - p)) [B]: log p and log(1 - p) then are `log_sigmoid` of them and of their negative,
each exact in float32 where the other rounds to 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from tfgradgen.core.backend import TINY
from tfgradgen.core.checks import fail

RARE = -30.0  # nats: below, 1 - (1 - q) ** w is w q to float32's precision for every weight up to MAX_WEIGHT
MAX_WEIGHT = 1e6


class Evidence(NamedTuple):
    """What one classifier says. log_probs: [B, num_classes] float32. is_exclusive: its classes' probabilities sum to one."""

    log_probs: tf.Tensor
    is_exclusive: bool


class Expression:
    """A condition on an image. `str` gives its normalized text, which parses to the same condition."""

    rank = 0  # how tightly its operator binds

    def log_odds(self, evidence: Mapping[int, Evidence]) -> tf.Tensor:
        """log(p / (1 - p)) [B] float32 of the condition; `evidence` is by the classifier's index."""
        raise NotImplementedError

    def parts(self) -> tuple["Expression", ...]:
        """The conditions that it is composed of."""
        return ()

    def within(self, rank: int) -> str:
        """Its text as an operand of an operator of `rank`."""
        return str(self) if self.rank >= rank else f"({self})"


@dataclass(frozen=True)
class Class(Expression):
    """A class of one classifier: classifier and class by index, and the name that the text has for it."""

    classifier: int
    index: int
    name: str
    rank = 4

    def log_odds(self, evidence: Mapping[int, Evidence]) -> tf.Tensor:
        log_probs, is_exclusive = evidence[self.classifier]
        if is_exclusive:
            return _log_odds_of_any(log_probs, {self.index})
        log_prob = log_probs[:, self.index]
        return log_prob - tf.math.log(tf.maximum(-tf.math.expm1(log_prob), TINY))

    def __str__(self) -> str:
        return f"{self.name}@{self.classifier + 1}" if self.classifier else self.name


@dataclass(frozen=True)
class Not(Expression):
    of: Expression
    rank = 3

    def log_odds(self, evidence: Mapping[int, Evidence]) -> tf.Tensor:
        return -self.of.log_odds(evidence)

    def parts(self) -> tuple[Expression, ...]:
        return (self.of,)

    def __str__(self) -> str:
        return f"!{self.of.within(self.rank)}"


@dataclass(frozen=True)
class Weighted(Expression):
    """weight: > 0, at most MAX_WEIGHT; it multiplies the log-probability."""

    weight: float
    of: Expression
    rank = 2

    def log_odds(self, evidence: Mapping[int, Evidence]) -> tf.Tensor:
        odds = self.of.log_odds(evidence)
        log_prob, log_other = self.weight * tf.math.log_sigmoid(odds), tf.math.log_sigmoid(-odds)
        is_rare = log_other < RARE
        other = tf.math.log(-tf.math.expm1(tf.where(is_rare, -1.0, log_prob)))  # -1: any value that keeps the gradient finite
        return log_prob - tf.where(is_rare, math.log(self.weight) + log_other, other)

    def parts(self) -> tuple[Expression, ...]:
        return (self.of,)

    def __str__(self) -> str:
        return f"{self.weight:.12g}*{self.of.within(self.rank)}"


@dataclass(frozen=True)
class And(Expression):
    of: tuple[Expression, ...]
    rank = 1

    def log_odds(self, evidence: Mapping[int, Evidence]) -> tf.Tensor:
        return _log_odds_of_all([part.log_odds(evidence) for part in self.of])

    def parts(self) -> tuple[Expression, ...]:
        return self.of

    def __str__(self) -> str:
        return " & ".join(part.within(self.rank + 1) for part in self.of)


@dataclass(frozen=True)
class Or(Expression):
    """The plain classes of one softmax among `of` exclude each other; named twice, a class counts once."""

    of: tuple[Expression, ...]
    rank = 0

    def log_odds(self, evidence: Mapping[int, Evidence]) -> tf.Tensor:
        together: dict[int, set[int]] = {}
        odds = []
        for part in self.of:
            if isinstance(part, Class) and evidence[part.classifier].is_exclusive:
                together.setdefault(part.classifier, set()).add(part.index)
            else:
                odds.append(part.log_odds(evidence))
        odds += [_log_odds_of_any(evidence[k].log_probs, indices) for k, indices in together.items()]
        return -_log_odds_of_all([-each for each in odds])  # 1 - p(a | b) = (1 - p(a)) (1 - p(b))

    def parts(self) -> tuple[Expression, ...]:
        return self.of

    def __str__(self) -> str:
        return " | ".join(part.within(self.rank + 1) for part in self.of)


def classifiers_of(expression: Expression) -> set[int]:
    """The indices of the classifiers that `expression` asks."""
    if isinstance(expression, Class):
        return {expression.classifier}
    return set().union(*map(classifiers_of, expression.parts()))


def _log_odds_of_any(log_probs: tf.Tensor, indices: set[int]) -> tf.Tensor:
    """log-odds [B] of the classes `indices` of a softmax together."""
    is_inside = [k in indices for k in range(log_probs.shape[1])]
    if all(is_inside):
        raise fail("label", "a condition that leaves a class out", "every class of a classifier", "leave that part out")
    # Summed over the others too: 1 - p would be 0 as soon as p rounds to 1.
    inside = tf.reduce_logsumexp(tf.where(is_inside, log_probs, -math.inf), -1)
    return inside - tf.reduce_logsumexp(tf.where(is_inside, -math.inf, log_probs), -1)


def _log_odds_of_all(odds: Sequence[tf.Tensor]) -> tf.Tensor:
    """log-odds [B] of the product of the probabilities whose log-odds [B] are given."""
    if len(odds) == 1:
        return odds[0]
    log_probs, log_others = tf.math.log_sigmoid(tf.stack(odds)), tf.math.log_sigmoid(-tf.stack(odds))
    # 1 - p q r = (1 - p) + p (1 - q) + p q (1 - r)
    log_other = tf.reduce_logsumexp(log_others + tf.cumsum(log_probs, exclusive=True), 0)
    return tf.reduce_sum(log_probs, 0) - log_other
