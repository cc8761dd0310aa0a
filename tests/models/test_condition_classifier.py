"""Composed conditions as classifiers: their probability compared with exact arithmetic, and their posterior."""

import math
from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy
from tfgradgen.core.backend import TINY
from tfgradgen.core.checks import UserError
from tfgradgen.core.config import RunConfig
from tfgradgen.mcmc.rejection import sample_exact
from tfgradgen.models.classifier import Classifier, load_classifier
from tfgradgen.models.condition import ConditionClassifier, parse_condition
from tfgradgen.models.labels import resolve_labels
from tfgradgen.models.loading.metadata import Label
from tfgradgen.posterior import ClassPosterior

ANIMALS = (Label("goldfish"), Label("king_penguin"), Label("monarch"))
SOUNDS = (Label("Bark"), Label("Police car (siren)"), Label("goldfish"), Label("R&B"))


def as_pixels(*rows: Sequence[float]) -> tf.Tensor:
    """Return images [B, 1, 1, K] whose channels are the model's outputs."""
    return tf.constant(rows, tf.float32)[:, None, None, :]


def make(labels: Sequence[Label], output: str = "logits", first: int = 0) -> Classifier:
    """Return a model whose outputs are the channels of the image, from channel `first` on."""
    fn = lambda image: image[:, 0, 0, first : first + len(labels)]  # noqa: E731
    return Classifier(fn, tuple(labels), (1, 1), output=output)


def compose(text: str, *classifiers: Classifier) -> ConditionClassifier:
    return ConditionClassifier(classifiers, parse_condition(text, [classifier.labels for classifier in classifiers]))


PAIR = (make(ANIMALS), make(SOUNDS, "scores", first=3))


DIGITS = 400  # 1 - exp(-700) is not 1


def exact(formula: Callable[..., Decimal], row: Sequence[float]) -> tuple[Decimal, Decimal]:
    """Return 1 - p and p of a formula of the three classes' probabilities and the four scores, to hundreds of digits."""
    weights = [_exp(Decimal(x)) for x in row[:3]]
    prob = formula(*[weight / sum(weights) for weight in weights], *map(Decimal, row[3:]))
    return 1 - prob, prob


@cache
def _exp(x: Decimal) -> Decimal:
    """Return exp(x), cached: all formulas need the same values, and each takes milliseconds."""
    with localcontext() as context:
        context.prec = DIGITS
        return x.exp()


FORMULAS: dict[str, Callable[..., Decimal]] = {
    "goldfish": lambda g, k, m, *s: g,
    "!goldfish": lambda g, k, m, *s: 1 - g,
    "!!goldfish": lambda g, k, m, *s: g,
    "goldfish & monarch": lambda g, k, m, *s: g * m,
    "goldfish & !monarch": lambda g, k, m, *s: g * (1 - m),
    "!(goldfish & !monarch)": lambda g, k, m, *s: 1 - g * (1 - m),
    "goldfish | monarch": lambda g, k, m, *s: g + m,
    "goldfish | goldfish": lambda g, k, m, *s: g,
    "!(goldfish | monarch)": lambda g, k, m, *s: k,
    "!goldfish & !monarch": lambda g, k, m, *s: (1 - g) * (1 - m),
    "!goldfish | monarch": lambda g, k, m, *s: 1 - g + m - (1 - g) * m,
    "goldfish | !king_penguin & goldfish | monarch": lambda g, k, m, *s: 1 - (1 - (g + m)) * (1 - (1 - k) * g),
    "goldfish & 0.5*monarch": lambda g, k, m, *s: g * m ** Decimal("0.5"),
    "3*(goldfish | monarch)": lambda g, k, m, *s: (g + m) ** 3,
    "!(1e-6*goldfish)": lambda g, k, m, *s: 1 - g ** Decimal("1e-6"),
    "0.25*!(0.5*goldfish)": lambda g, k, m, *s: (1 - g ** Decimal("0.5")) ** Decimal("0.25"),
    "bark@2": lambda g, k, m, b, p, f, r: b,
    "bark | police car (siren)": lambda g, k, m, b, p, f, r: b + p - b * p,
    "!bark & !goldfish@2": lambda g, k, m, b, p, f, r: (1 - b) * (1 - f),
    "goldfish & bark | monarch & 2*R&B": lambda g, k, m, b, p, f, r: 1 - (1 - g * b) * (1 - m * r**2),
    "goldfish | monarch | bark": lambda g, k, m, b, p, f, r: (g + m) + b - (g + m) * b,
}
ROWS = [
    [0.3, -0.4, 1.1, 0.5, 0.125, 0.75, 0.0625],
    [30.0, 0.0, 1.0, 2.0**-24, 1 - 2.0**-24, 0.5, 2.0**-60],
    [0.0, 100.0, -1.0, 2.0**-100, 0.5, 1 - 2.0**-20, 0.5],
    [-250.0, 0.5, 60.0, 0.5, 0.5, 0.5, 0.5],
    [250.0, 0.5, -100.0, 0.5, 0.5, 0.5, 0.5],
    [0.0, 0.0, 300.0, 2.0**-30, 2.0**-30, 2.0**-30, 2.0**-30],
]


@pytest.mark.parametrize("text", FORMULAS)
def test_log_probabilities_and_gradients_are_those_of_exact_arithmetic(text: str) -> None:
    image = as_pixels(*ROWS)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(image)
        logits = compose(text, *PAIR)(image)
        each = tf.unstack(logits, axis=-1)
    slopes = np.stack([tape.gradient(part, image)[:, 0, 0] for part in each], 1)
    np.testing.assert_allclose(tf.reduce_logsumexp(logits, -1), 0, atol=2e-6)
    assert np.max(logits) <= 0
    with localcontext() as context:
        context.prec = DIGITS
        step = Decimal(10) ** -40
        for row, found, slope in zip(ROWS, logits.numpy(), slopes, strict=True):
            values = exact(FORMULAS[text], row)
            np.testing.assert_allclose(found, [float(x.ln()) for x in values], rtol=2e-5, atol=2e-6)
            for k in range(7):
                ends = [
                    exact(FORMULAS[text], [x + sign * step * (j == k) for j, x in enumerate(map(Decimal, row))])
                    for sign in (1, -1)
                ]
                wanted = [float((high - low) / (2 * step * x)) for high, low, x in zip(*ends, values, strict=True)]
                np.testing.assert_allclose(slope[:, k], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", FORMULAS)
@pytest.mark.parametrize("scores", [(0.0, 1.0, 0.0, 1.0), (1.0, 0.0, 1.0, 0.0)])
def test_what_is_certain_leaves_everything_finite(text: str, scores: tuple[float, ...]) -> None:
    image = as_pixels([1e4, 0.0, -1e4, *scores], [-1e4, 1e4, 0.0, *scores])
    with tf.GradientTape() as tape:
        tape.watch(image)
        log_prob = tf.nn.log_softmax(compose(text, *PAIR)(image))  # as the posterior computes it
    assert np.isfinite(log_prob).all()
    assert np.isfinite(tape.gradient(log_prob, image)).all()


def log_prob_of(text: str, rows: Any, *classifiers: Classifier) -> np.ndarray:
    return compose(text, *classifiers)(as_pixels(*rows)).numpy()[:, 1]


def test_identities() -> None:
    sounds = make(SOUNDS, "scores")
    rows = np.random.default_rng(0).uniform(0.05, 0.95, [20, 4])

    def gap(classifier: Classifier, left: str, right: str) -> float:
        return float(np.abs(log_prob_of(left, rows, classifier) - log_prob_of(right, rows, classifier)).max())

    for left, right in (
        ("!!bark", "bark"),
        ("bark & R&B", "R&B & bark"),
        ("1*bark", "bark"),
        ("2*bark", "bark & bark"),
        ("0.5*(bark & R&B)", "0.5*bark & 0.5*R&B"),
        ("!(bark | R&B)", "!bark & !R&B"),
        ("!(bark & R&B)", "!bark | !R&B"),
    ):
        assert gap(sounds, left, right) < 2e-6, left
    softmax = make(SOUNDS)
    assert gap(softmax, "!(bark & R&B)", "!bark | !R&B") < 2e-6, "conjunctions are products, for any classes"
    assert gap(softmax, "bark | bark", "bark") == 0
    assert gap(softmax, "!(bark | R&B)", "!bark & !R&B") > 0.05, "classes that exclude each other are no independent ones"
    assert gap(sounds, "bark | bark", "bark") > 0.05, "scores are"


def test_a_condition_that_is_always_met_is_refused() -> None:
    for text in ("a | b", "!(a | b) & a", "2*(b | a | a)"):
        with pytest.raises(UserError, match="a condition that excludes some class, got all classes of a classifier"):
            compose(text, make([Label("a"), Label("b")]))
    compose("a | b", make([Label("a"), Label("b")], "scores"))


def test_each_classifier_that_is_asked_is_called_once() -> None:
    calls = []

    def counting(classifier: Classifier, name: str) -> Classifier:
        def fn(image: tf.Tensor) -> tf.Tensor:
            calls.append(name)
            return classifier.fn(image)

        return Classifier(fn, classifier.labels, (1, 1), output=classifier.output)

    pair = (counting(PAIR[0], "first"), counting(PAIR[1], "second"))
    assert compose("goldfish & (bark | !goldfish) & 2*(R&B | monarch)", *pair)(as_pixels(ROWS[0])).shape == (1, 2)
    assert calls == ["first", "second"]
    calls.clear()
    compose("bark", *pair)(as_pixels(ROWS[0]))
    assert calls == ["second"]


def test_its_labels_and_what_a_record_asks() -> None:
    first = Classifier(PAIR[0].fn, ANIMALS, (1, 1), (0.0, 1.0), "logits", "a", "12", ("output",))
    second = Classifier(PAIR[1].fn, SOUNDS, (2, 3), (-1.0, 1.0), "scores", "b", "34", ("image_range",))
    one, both = compose("! goldfish", first), compose("monarch & bark", first, second)
    assert one.labels == (Label("not (!goldfish)", background=True), Label("!goldfish"))
    assert resolve_labels(one.labels, "all") == resolve_labels(one.labels, "!goldfish") == [1]
    names = ("path", "sha256", "image_range", "image_size", "output", "assumed", "num_classes", "module")
    assert [getattr(one, name) for name in names] == ["a", "12", (0.0, 1.0), (1, 1), "logits", ("output",), 2, None]
    assert [getattr(both, name) for name in names] == [
        "a + b",
        "12 + 34",
        ((0.0, 1.0), (-1.0, 1.0)),
        ((1, 1), (2, 3)),
        ("logits", "scores"),
        ("output", "image_range@2"),
        2,
        None,
    ]


def test_log_probs_of_each_kind_of_output(tmp_path: Path) -> None:
    image, values = tf.fill([1, 4, 4, 1], 0.5), np.array([0.25, 0.75])

    def saved(output: str, given: Any) -> Classifier:
        def fn(x: tf.Tensor) -> tf.Tensor:
            return tf.ones([tf.shape(x)[0], 1]) * tf.constant(given, tf.float32)

        return load_classifier(toy.save(tmp_path / output, fn, [None, 4, 4, 1], {"output": output}))

    outputs = {"logits": np.log(values) + 3, "probabilities": values, "scores": np.array([0.9, 0.0])}
    loaded = {output: saved(output, given) for output, given in outputs.items()}
    for output in ("logits", "probabilities"):
        np.testing.assert_allclose(loaded[output].log_probs(image), [np.log(values)], rtol=1e-5)
        np.testing.assert_allclose(tf.nn.log_softmax(loaded[output](image)), [np.log(values)], rtol=1e-5)
    np.testing.assert_allclose(loaded["scores"].log_probs(image), [[math.log(0.9), math.log(TINY)]], rtol=1e-5)
    with pytest.raises(UserError, match="expected logits or probabilities, got scores; use a condition on its classes"):
        loaded["scores"](image)
    with pytest.raises(UserError, match="expected one of logits, probabilities, scores, got 'score'"):
        load_classifier(tmp_path / "scores", output="score")


@pytest.mark.slow
def test_xla_gives_the_same() -> None:
    condition = compose("!goldfish & 0.5*bark", *PAIR)

    def value_and_gradient(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(image)
            log_prob = condition(image)[:, 1]
        return log_prob, tape.gradient(log_prob, image)

    image = as_pixels(*ROWS)
    for ours, xlas in zip(value_and_gradient(image), tf.function(value_and_gradient, jit_compile=True)(image), strict=True):
        np.testing.assert_allclose(ours, xlas, rtol=1e-5, atol=1e-6)


def moments(prob_of: Callable[..., np.ndarray]) -> tuple[np.ndarray, float]:
    """Return the means of z_0 and z_1 under Normal(z; 0, I) p(z), and the mean of p under the prior, by quadrature."""
    grid = np.linspace(-8, 8, 801)
    x, y = np.meshgrid(grid, grid, indexing="ij")
    prior = np.exp(-0.5 * (x**2 + y**2))
    logits = np.stack([np.zeros_like(x), 3 * x, 2 * y])
    probs = np.exp(logits) / np.exp(logits).sum(0)
    weight = prior * prob_of(*probs)
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum(), float(weight.sum() / prior.sum())


POSTERIORS: dict[str, Callable[..., np.ndarray]] = {
    "right & !upper": lambda n, r, u: r * (1 - u),
    "right | upper": lambda n, r, u: r + u,
    "!(right & 2*upper)": lambda n, r, u: 1 - r * u**2,
    "right & upper": lambda n, r, u: r * u,
}


@pytest.mark.slow
@pytest.mark.parametrize("text", POSTERIORS)
def test_exact_draws_have_the_moments_of_the_condition_and_of_no_other(text: str) -> None:
    def fn(image: tf.Tensor) -> tf.Tensor:
        return tf.stack([tf.zeros_like(image[:, 0, 0, 0]), 3 * image[:, 0, 0, 0], 2 * image[:, 0, 1, 0]], -1)

    classifier = Classifier(fn, (Label("neither"), Label("right"), Label("upper")), (2, 2))
    posterior = ClassPosterior(toy.ToyGenerator(), compose(text, classifier), 1)
    draws, _, prior_prob, _ = sample_exact(posterior, 250, RunConfig(num_chains=16, seed=5))
    z = draws.z.reshape(-1, 6)[:, :2]
    errors = z.std(0) / math.sqrt(len(z))

    def deviations(prob_of: Callable[..., np.ndarray]) -> float:
        return float(np.max(np.abs(z.mean(0) - moments(prob_of)[0]) / errors))

    assert deviations(POSTERIORS[text]) < 4
    assert abs(prior_prob - moments(POSTERIORS[text])[1]) < 0.02
    for other, prob_of in POSTERIORS.items():
        assert other == text or deviations(prob_of) > 6
