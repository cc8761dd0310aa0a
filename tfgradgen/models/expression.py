"""Composed conditions as probabilities: the effect of `&`, `|`, `!` and a weight on p(class | image).

LACE (Nie et al. 2021, "Controllable and Compositional Generation with Latent-Space Energy-Based Models", after Du et al. 2020)
composes energies E = -log p. Here every composition is a probability, so that rejection sampling from the prior stays exact:

    a & b   p(a) p(b)                  LACE: sum of the energies, a product of experts
    a | b   p(a) + p(b)                for classes of one softmax, which exclude each other (LACE: -logsumexp(-E))
            p(a) + p(b) - p(a) p(b)    otherwise; `a` and `b` are assumed independent given the image
    !a      1 - p(a)                   LACE: -alpha E(a), that is p(a) ** -alpha, which is unbounded and not a probability
    w*a     p(a) ** w                  w times the energy

De Morgan's laws hold for the general formula: for sounds, !(a | b) equals !a & !b. They do not hold for classes that exclude
each other, because 1 - p(a) - p(b) is less than (1 - p(a)) (1 - p(b)).

All conditions are computed as log-odds, log(p / (1 - p)) [B]. Then log p and log(1 - p) are `log_sigmoid` of the log-odds and
of their negative, and each is accurate in float32 even if the other rounds to 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from tfgradgen.core.backend import TINY
from tfgradgen.core.checks import fail
from tfgradgen.models.labels import OPERATORS

RARE = -30.0  # log q in nats below which 1 - (1 - q) ** w equals w q in float32, for every weight up to MAX_WEIGHT
MAX_WEIGHT = 1e6


class Evidence(NamedTuple):
    """The answer of one classifier.

    Attributes:
      log_probs: [B, num_classes] float32.
      is_exclusive: Whether the probabilities of its classes sum to one.
    """

    log_probs: tf.Tensor
    is_exclusive: bool


class Expression:
    """A condition on an image. `str` returns its normalized text, which parses to the same condition."""

    rank = 0  # precedence of its operator

    def log_odds(self, evidence: Mapping[int, Evidence]) -> tf.Tensor:
        """Return log(p / (1 - p)) [B] float32 of the condition; `evidence` is indexed by classifier."""
        raise NotImplementedError

    def parts(self) -> tuple["Expression", ...]:
        """Return the operands of the condition."""
        return ()

    def within(self, rank: int) -> str:
        """Return its text as an operand of an operator with precedence `rank`."""
        return str(self) if self.rank >= rank else f"({self})"


@dataclass(frozen=True)
class Class(Expression):
    """A class of one classifier, by indices, with the name used in the text."""

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
class Phrase(Class):
    """A text, the class of a classifier of its own. It stands as it is, in quotation marks if it has operators."""

    def __str__(self) -> str:
        return f'"{self.name}"' if set(self.name) & set(OPERATORS) else self.name


@dataclass(frozen=True)
class Not(Expression):
    """`!a`."""

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
    """`w*a`: the log-probability times a weight in (0, MAX_WEIGHT]."""

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
    """`a & b & ...`."""

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
    """`a | b | ...`. Plain classes of one softmax exclude each other; a class that occurs twice counts once."""

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
    """Return the indices of the classifiers in `expression`."""
    if isinstance(expression, Class):
        return {expression.classifier}
    return set().union(*map(classifiers_of, expression.parts()))


def _log_odds_of_any(log_probs: tf.Tensor, indices: set[int]) -> tf.Tensor:
    """Return the log-odds [B] of the union of the classes `indices` of a softmax."""
    is_inside = [k in indices for k in range(log_probs.shape[1])]
    if all(is_inside):
        raise fail("label", "a condition that excludes some class", "all classes of a classifier", "leave that part out")
    # The other classes are summed too, because 1 - p is 0 once p rounds to 1.
    inside = tf.reduce_logsumexp(tf.where(is_inside, log_probs, -math.inf), -1)
    return inside - tf.reduce_logsumexp(tf.where(is_inside, -math.inf, log_probs), -1)


def _log_odds_of_all(odds: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return the log-odds [B] of the product of the probabilities with log-odds `odds`."""
    if len(odds) == 1:
        return odds[0]
    log_probs, log_others = tf.math.log_sigmoid(tf.stack(odds)), tf.math.log_sigmoid(-tf.stack(odds))
    # 1 - p q r = (1 - p) + p (1 - q) + p q (1 - r)
    log_other = tf.reduce_logsumexp(log_others + tf.cumsum(log_probs, exclusive=True), 0)
    return tf.reduce_sum(log_probs, 0) - log_other
