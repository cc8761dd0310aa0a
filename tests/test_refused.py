"""What the library refuses in one line: terms that would do nothing or be dropped, and arguments of another kind."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tfgradgen as tg
from tests.support.toy import ToyClassifier, ToyGenerator

QUICK: dict[str, Any] = {"num_results": 3, "num_burnin_steps": 2, "num_chains": 2}
RUN = tg.RunConfig(num_chains=2)


def make(label: Any = 1, **further: Any) -> tg.ClassPosterior:
    return tg.ClassPosterior(ToyGenerator(), ToyClassifier(), label, **further)


def pull(weight: Any = 1.0, mean: Any = 3.0, scale: Any = 0.2) -> tg.Regularization:
    return tg.Regularization(weight, *(np.full(6, value, np.float32) for value in (mean, scale)))


def energy(image: tf.Tensor) -> tf.Tensor:
    return tf.sin(image[:, 1, 1, 0])


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"regularization": 1}, "regularization: expected a tfgradgen.Regularization"),
        ({"regularization": pull(weight=-1.0)}, "regularization.weight: expected a number of at least 0, got -1"),
        ({"regularization": pull(scale=0.0)}, "regularization.scale: expected finite numbers above 0"),
        ({"regularization": pull(scale=np.nan)}, "regularization.scale: expected finite numbers above 0"),
        ({"regularization": pull(mean=np.inf)}, "regularization.mean: expected finite numbers, got"),
        ({"regularization": pull()._replace(mean=np.zeros(3))}, "regularization.mean: expected .6., .* got shape .3."),
        ({"regularization": pull()._replace(mean="x")}, "regularization.mean: expected numbers .6., got 'x'"),
        ({"discriminator": energy}, "discriminator: expected a discriminator_weight above 0, got 0"),
        ({"discriminator_weight": 1.0}, "discriminator_weight: expected a discriminator beside it, got none"),
        ({"discriminator": 3, "discriminator_weight": 1.0}, "discriminator: expected a function .*, got int"),
        ({"temperature": 1e40}, "temperature: expected a number of at most 3.4e.38, got 1e.40"),
        ({"temperature": 1e-300}, "temperature: expected a number of at least 1e-30, got 1e-300"),
        ({"label": ""}, "label: expected the name of a class, an index or a condition, got ''"),
    ],
)
def test_a_term_that_would_be_wrong_or_do_nothing(given: dict[str, Any], text: str) -> None:
    with pytest.raises(tg.UserError, match=text):
        make(**given)


def test_log_odds_are_one_value_for_each_image() -> None:
    posterior = make(discriminator=lambda image: energy(image)[:, None], discriminator_weight=1.0)
    with pytest.raises(tg.UserError, match=r"discriminator: expected log-odds \[batch\]"):
        posterior.unnormalized_log_prob(tf.zeros([2, 6]))


@pytest.mark.parametrize("kernel", ["mala", "rejection", "smc", "map"])
def test_a_regularization_that_sampling_would_drop(kernel: str) -> None:
    with pytest.raises(tg.UserError, match="regularization: expected none, because sampling would leave it out"):
        tg.sample(make(regularization=pull()), kernel)


def sample_chains(posterior: tg.ClassPosterior, run: tg.RunConfig) -> Any:
    return tg.sample_chains(posterior, "mala", tg.MalaConfig(), tg.Schedule(3, 2, 1), run, tf.zeros([2, 6]))


def sample_exact(posterior: tg.ClassPosterior, run: tg.RunConfig) -> Any:
    return tg.sample_exact(posterior, 3, run)


@pytest.mark.parametrize("part_fn", [sample_chains, sample_exact])
def test_the_parts_of_a_run_would_drop_it_too(part_fn: Any) -> None:
    with pytest.raises(tg.UserError, match="regularization: expected none"):
        part_fn(make(regularization=pull()), RUN)


@pytest.mark.parametrize("label", [1, [0, 1]])
@pytest.mark.parametrize("part_fn", [sample_chains, sample_exact, tg.initial_points])
def test_another_temperature_than_the_posterior_s(part_fn: Any, label: Any) -> None:
    with pytest.raises(tg.UserError, match=r"temperature: expected 1, which the posterior has, got 0\.05"):
        part_fn(make(label), tg.RunConfig(num_chains=2, temperature=0.05))


class Own(tg.ClassPosterior):
    def unnormalized_log_prob(self, z: Any) -> Any:
        return 0.0 * super().unnormalized_log_prob(z)


class Helped(tg.ClassPosterior):
    def helper(self) -> int:
        return 0


def test_a_class_with_densities_of_its_own() -> None:
    given = make().parameters
    with pytest.raises(tg.UserError, match="the densities of ClassPosterior, got a class with its own unnormalized_log_prob"):
        tg.sample(Own(**given))
    assert tg.sample(Helped(**given), **QUICK).z.shape == (3, 2, 6)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: tg.sample(make(), progress=1, **QUICK), "progress: expected True, False or a function, got 1"),
        (lambda: tg.sample(make(), "auto", progress="no"), "progress: expected True, False or a function, got 'no'"),
        (lambda: tg.sample(make(), chunk_fn=3, **QUICK), "chunk_fn: expected a function .*, got 3"),
        (lambda: tf.function(lambda: tg.sample(make()), autograph=False)(), "sample: expected a call outside of tf.function"),
        (lambda: tg.sample(make(), init=[1e300] * 6), "init: expected .* 6 finite numbers"),
        (lambda: tg.sample_exact(make(), RUN, 5), "num_results: expected an integer"),
        (lambda: tg.initial_points(make(), 3), "run: expected a tfgradgen.RunConfig, got int"),
        (lambda: tg.show(3, 0), "result: expected a tfgradgen.SampleResult, got int"),
        (lambda: tg.film(None, 0), "result: expected a tfgradgen.SampleResult, got NoneType"),
        (lambda: tg.load_posterior(3), "result: expected a tfgradgen.SampleResult, got int"),
        (lambda: tg.collect([]), "chunks: expected at least one chunk"),
        (lambda: tg.load_run(None), "folder: expected a path, got None"),
        (lambda: tg.load_run(""), "folder: expected a path, got ''"),
    ],
)
def test_what_is_of_another_kind(call: Any, text: str) -> None:
    with pytest.raises(tg.UserError, match=text):
        call()


def test_a_vector_of_labels_says_how_many_chains() -> None:
    assert tg.sample(make([0, 1, 1]), num_results=3, num_burnin_steps=2).z.shape == (3, 3, 6)


class Named(ToyClassifier):
    def __init__(self, labels: Any):
        super().__init__()
        self.labels = labels


@pytest.mark.parametrize("labels", [["zero", "one"], ("zero", "one"), np.array(["zero", "one"])])
def test_labels_may_be_plain_strings(labels: Any) -> None:
    posterior = tg.ClassPosterior(ToyGenerator(), Named(labels), "one")
    assert posterior.label_names == ["one"]
    assert tg.sample(posterior, **QUICK).record["label"] == {"index": 1, "name": "one", "wnid": ""}


def test_labels_are_one_for_each_class() -> None:
    with pytest.raises(tg.UserError, match="classifier: expected a label for each class, got 1 labels for 2 classes"):
        tg.ClassPosterior(ToyGenerator(), Named(["zero"]), "zero")
