"""Composed conditions: a parser of texts such as `goldfish & !orange`, and a classifier of the condition."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.text import value_text
from tfgradgen.models.classifier import Classifier
from tfgradgen.models.expression import MAX_WEIGHT, And, Class, Evidence, Expression, Not, Or, Weighted, classifiers_of
from tfgradgen.models.labels import OPERATOR, OPERATORS, as_key, find_label, named, split_names, unknown_label
from tfgradgen.models.loading.metadata import Label

MAX_DEPTH = 50  # far below the limit of Python's stack


def is_condition(text: Any, labelled: Sequence[Sequence[Label]]) -> bool:
    """Return whether `text` is a condition, not a name or list of names; names may contain the characters of operators."""

    def is_name(part: str) -> bool:
        return any(named(labels, part) is not None for labels in labelled)

    if not isinstance(text, str) or is_name(text):
        return False
    return any(set(part) & set(OPERATORS) and not is_name(part) for part in split_names(labelled, text))


def parse_condition(text: str, labelled: Sequence[Sequence[Label]]) -> Expression:
    """Parse a condition on the classes of one or several classifiers.

    The syntax is `a & b`, `a | b`, `!a`, `0.5*a` and parentheses, with precedence `!`, weight, `&`, `|`. A class is anything
    that `find_label` accepts: a name, WordNet id, index or word of a synset. `NAME@2` is a class of the second classifier;
    without `@`, the first classifier with that class is used. `expression` defines the operators.

    Args:
      text: The condition.
      labelled: The labels of each classifier.

    Raises:
      UserError: A syntax error, with its position, or a class that no classifier has.
    """
    return _Parser(text, labelled).parse()


@dataclass(frozen=True, eq=False)
class ConditionClassifier:
    """`classifier(image)`: image [B, height, width, channels] in [-1, 1] -> logits [B, 2] = log(1 - p), log p of a condition.

    Class 1 is the condition, with its text as name; class 0 is its complement. The attributes for a run record are those of the
    classifier; for several classifiers paths and digests are joined, and settings are tuples.

    Args:
      classifiers: In the order in which `parse_condition` had their labels. Each one in the condition is called once.
      expression: The result of `parse_condition`.

    Raises:
      UserError: A part of the condition contains all classes of a classifier, so that it is always true.
    """

    classifiers: Sequence[Classifier]
    expression: Expression
    num_classes = 2
    module = None

    def __post_init__(self) -> None:
        self._logits({k: tf.zeros([1, self.classifiers[k].num_classes]) for k in classifiers_of(self.expression)})

    def for_generator(self, generator: Any) -> "ConditionClassifier":
        """Return the condition for a generator's images; see `Classifier.for_generator`."""
        classifiers = [classifier.for_generator(generator) for classifier in self.classifiers]
        is_same = all(new is old for new, old in zip(classifiers, self.classifiers, strict=True))
        return self if is_same else ConditionClassifier(classifiers, self.expression)

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        return self.of_log_probs([classifier.log_probs(image) for classifier in self.asked])

    @property
    def asked(self) -> tuple[Classifier, ...]:
        """Those of its classifiers that the condition is about."""
        return tuple(self.classifiers[k] for k in sorted(classifiers_of(self.expression)))

    def of_log_probs(self, log_probs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Return its logits for images with these `log_probs` [B, num_classes], one for each classifier in `asked`."""
        return self._logits(dict(zip(sorted(classifiers_of(self.expression)), log_probs, strict=True)))

    def _logits(self, log_probs: dict[int, tf.Tensor]) -> tf.Tensor:
        odds = self.expression.log_odds({k: Evidence(each, self.classifiers[k].is_exclusive) for k, each in log_probs.items()})
        return tf.stack([tf.math.log_sigmoid(-odds), tf.math.log_sigmoid(odds)], -1)

    @property
    def labels(self) -> tuple[Label, Label]:
        name = str(self.expression)
        return Label(f"not ({name})", background=True), Label(name)

    @property
    def stream(self) -> int:
        """A number in 1..2**31 - 1 from the text of the condition, for its random numbers (`ClassPosterior.own_seed`)."""
        return 1 + zlib.crc32(str(self.expression).encode()) % (2**31 - 1)

    @property
    def path(self) -> str:
        return " + ".join(classifier.path for classifier in self.classifiers)

    @property
    def sha256(self) -> str:
        return " + ".join(classifier.sha256 for classifier in self.classifiers)

    @property
    def image_range(self) -> Any:
        return self._setting("image_range")

    @property
    def image_size(self) -> Any:
        return self._setting("image_size")

    @property
    def output(self) -> Any:
        return self._setting("output")

    @property
    def texts(self) -> tuple[dict[str, Any], ...]:
        """What a run record says of the texts in the condition."""
        return tuple(each.about for each in self.asked if hasattr(each, "about"))

    @property
    def assumed(self) -> tuple[str, ...]:
        """Names of the guessed settings; those of a second classifier end in @2."""
        marked = [(name, f"@{k + 1}" if k else "") for k, each in enumerate(self.classifiers) for name in each.assumed]
        return tuple(name + mark for name, mark in marked)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(line for classifier in self.classifiers for line in classifier.warnings)

    def _setting(self, name: str) -> Any:
        values = tuple(getattr(classifier, name) for classifier in self.classifiers)
        return values[0] if len(values) == 1 else values


class _Parser:
    """A recursive-descent parser with one method per operator, from the lowest precedence to the highest."""

    def __init__(self, text: str, labelled: Sequence[Sequence[Label]]):
        self.text, self.labelled = text, labelled
        self.at = self.depth = 0
        names = [label.name for labels in labelled for label in labels if set(label.name) & set(OPERATORS)]
        self.odd_names = sorted(names, key=len, reverse=True)  # longest first: one may be a prefix of another

    def parse(self) -> Expression:
        expression = self._any()
        if self._next():
            raise self._error("& or | or the end", "close each bracket once and separate operands by & or |")
        return expression

    def _any(self) -> Expression:
        return self._chain("|", self._all, Or)

    def _all(self) -> Expression:
        return self._chain("&", self._weighted, And)

    def _chain(self, operator: str, operand: Callable[[], Expression], kind: type[Or] | type[And]) -> Expression:
        parts = [operand()]
        while self._take(operator):
            parts.append(operand())
        flat = [inner for part in parts for inner in (part.of if isinstance(part, kind) else (part,))]
        return kind(tuple(flat)) if len(flat) > 1 else flat[0]

    def _weighted(self) -> Expression:
        self._next()
        word = self._word()
        if self._odd_name() or not self.text.startswith("*", self.at + len(word)):
            return self._negated()
        try:
            weight = float(word)
        except ValueError:
            weight = 0.0
        if not 1 / MAX_WEIGHT <= weight <= MAX_WEIGHT:
            expected = f"a weight of {1 / MAX_WEIGHT:g} to {MAX_WEIGHT:g} before *"
            raise self._error(expected, "write it as in 0.5*orange", word.strip())
        self.at += len(word) + 1
        return Weighted(weight, self._deeper(self._weighted))

    def _negated(self) -> Expression:
        if not self._odd_name():
            if self._take("!"):
                return Not(self._deeper(self._negated))
            if self._take("("):
                expression = self._deeper(self._any)
                if not self._take(")"):
                    raise self._error("& or | or )", "close each bracket once and separate operands by & or |")
                return expression
        return self._class()

    def _class(self) -> Expression:
        self._next()
        start, name = self.at, self._odd_name() or self._word()
        if not name.strip():
            raise self._error("a class name", "write one there")
        self.at += len(name)
        if self._next() == "*":
            raise self._error("& or | or the end", "put a weighted operand in brackets")
        known = list(enumerate(self.labelled))
        if self._take("@"):
            known = [known[self._number()]]
        for k, labels in known:
            index = find_label(labels, name.strip())
            if index is not None:
                return Class(k, index, labels[index].name)
        raise unknown_label([labels for _, labels in known], name.strip(), self._place(start))

    def _number(self) -> int:
        """Read the index of a classifier after an @."""
        word = self._word()
        number = word.strip()
        if not number.isdecimal() or not 1 <= int(number) <= len(self.labelled):
            count = len(self.labelled)
            numbers = f"1 to {count}" if count > 1 else "1, as there is one classifier"
            expected = f"a classifier's number, {numbers}, after @"
            raise self._error(expected, "write it as in goldfish@1", number)
        self.at += len(word)
        return int(number) - 1

    def _word(self) -> str:
        """Return the text from here to the next operator."""
        return OPERATOR.split(self.text[self.at :], maxsplit=1)[0]

    def _odd_name(self) -> str:
        """Return the class name at this position if it contains operators, otherwise ''."""
        self._next()
        for name in self.odd_names:
            here = self.text[self.at : self.at + len(name)]
            rest = self.text[self.at + len(name) :].strip()
            if as_key(here) == as_key(name) and (not rest or rest[0] in "&|)@"):
                return here
        return ""

    def _deeper(self, operand: Callable[[], Expression]) -> Expression:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._error(f"a condition nested at most {MAX_DEPTH} deep", "make it simpler")
        expression = operand()
        self.depth -= 1
        return expression

    def _next(self) -> str:
        """Skip spaces and return the next character; '' at the end."""
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def _take(self, operator: str) -> bool:
        is_there = self._next() == operator
        self.at += is_there
        return is_there

    def _error(self, expected: str, remedy: str, got: str = "") -> UserError:
        found = got or self._next()
        return fail("label", expected, (value_text(found) if found else "the end") + self._place(self.at), remedy)

    def _place(self, at: int) -> str:
        return f" at character {at + 1} of {value_text(self.text)}"
