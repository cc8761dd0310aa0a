"""The exported module with small models and a known posterior: rows, step sizes, the distribution of the chains."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy
from tests.support.served_toys import Mixing, toy_plan, with_shape
from tfgradgen.core.contracts import Networks
from tfgradgen.models.loading.metadata import Label
from tfgradgen.serving.module import Serving, named_labels


def test_rows_never_meet_in_a_network() -> None:
    sample = Serving(Networks(with_shape(Mixing()), toy.ToyClassifier()), [], toy_plan()).signatures()["sample"]
    labels, seeds, steps = tf.constant(["no", "yes", "yes"]), tf.constant([1, 2, 3], tf.int64), tf.constant([4, 2, 3])
    whole = sample(label=labels, seed=seeds, num_steps=steps)
    for k in range(3):
        alone = sample(label=labels[k : k + 1], seed=seeds[k : k + 1], num_steps=steps[k : k + 1])
        assert all(np.array_equal(alone[key][0], whole[key][k]) for key in whole)


def test_each_label_has_its_own_step_size() -> None:
    networks = Networks(with_shape(toy.ToyGenerator()), toy.ToyClassifier())
    go_on = Serving(networks, [], toy_plan(step_sizes=(0.01, 1.5))).signatures()["continue"]
    labels, seeds = tf.constant(["no"] * 20 + ["yes"] * 20), tf.range(40, dtype=tf.int64)
    z = go_on(label=labels, seed=seeds, num_steps=tf.fill([40], 2), z=tf.zeros([40, 6]))["z"].numpy()
    assert 0.005 < z[:20].std() < 0.03
    assert z[20:].std() > 0.1, "ten times that of the short step, though most long ones are refused"


def test_an_error_names_as_many_labels_as_a_message_holds() -> None:
    labels = tuple(Label(f"class_{k}") for k in range(1000))
    text = named_labels(labels)
    count = text.count("class_")
    assert 80 < count < 1000
    assert f"class_{count - 1} and {1000 - count} more (all are in export.json); got" in text
    assert len(text) < 1200
    assert len(named_labels(tuple(Label("金" * k) for k in range(300, 400))).encode()) < 1200


@pytest.fixture(scope="module")
def signatures() -> dict[str, Any]:
    return Serving(Networks(with_shape(toy.ToyGenerator()), toy.ToyClassifier()), [], toy_plan(batched=2)).signatures()


def test_requests_that_make_no_sense_are_short_invalid_arguments(signatures: dict[str, Any]) -> None:
    seeds = tf.constant([1, 2], tf.int64)
    no, one, z = tf.constant(["no"]), tf.constant([1]), tf.zeros([1, 6])

    def refused(name: str, **inputs: Any) -> str:
        with pytest.raises(tf.errors.InvalidArgumentError, match="expected") as error:
            signatures[name](**inputs)
        return error.value.message.partition("assertion failed: ")[2]

    for label in (b"\xff\xfe", b"a" * 10**6, b"\x1b[31m", "\u202ebad".encode(), b"a\nb"):
        said = refused("serving_default", label=tf.constant([label]), seed=seeds[:1])
        assert "index of no, yes; got a text that is too long or not printable]" in said
        assert len(said) < 300
    for label, seed in ((no, seeds), (tf.repeat(no, 2), seeds[:1]), (no[:0], seeds[:0])):
        assert "expected one of each per row" in refused("serving_default", label=label, seed=seed)
    for steps in (-1, 9):
        assert "num_steps: expected 0 to 8" in refused("grid", label=no, seed=seeds[:1], num_steps=tf.constant([steps]))
    assert "per row" in refused("sample", label=tf.repeat(no, 2), seed=seeds, num_steps=one)
    assert "index of no, yes; got an empty text, maybe]" in refused(
        "serving_default", label=tf.constant([" ", "no", "maybe"]), seed=tf.constant([1, 2, 3], tf.int64)
    )
    wide = (tf.zeros([1, 5]), tf.zeros([2, 6]), tf.zeros([6, 1]), tf.zeros([6]), tf.zeros([]), tf.zeros([1, 1, 6]))
    for wrong in (z * np.nan, z + np.inf, z + 1e38, z - 1001, z[:0], *wide):
        assert "z: expected 6 finite" in refused("continue", label=no, seed=seeds[:1], num_steps=one, z=wrong)
    assert signatures["continue"](label=no, seed=seeds[:1], num_steps=one, z=z)["z"].shape == (1, 6)


@pytest.mark.parametrize("shape", [[], [1, 1], [2, 1], [1, 2], [0, 1], [1, 1, 1]])
@pytest.mark.parametrize("name", ["serving_default", "sample", "continue", "grid", "serving_batched", "grid_batched"])
def test_inputs_of_a_wrong_rank_are_told_what_was_expected(name: str, shape: list[int], signatures: dict[str, Any]) -> None:
    signature = signatures[name]
    right: dict[str, Any] = {"label": tf.constant(["no"]), "seed": tf.constant([1], tf.int64), "num_steps": tf.constant([1])}
    right |= {"z": tf.zeros([1, 6])} if name == "continue" else {}
    inputs = {key: value for key, value in right.items() if key != "num_steps" or "serving" not in name}
    rows = ("label", "seed", "num_steps")
    all_wrong = {key: tf.fill(shape, value[0]) if key in rows else value for key, value in inputs.items()}
    one_wrong = [inputs | {key: all_wrong[key]} for key in inputs if key in rows]
    for wrong in (all_wrong, *one_wrong):
        with pytest.raises(tf.errors.InvalidArgumentError, match="label, seed, num_steps: expected one of each per row"):
            signature(**wrong)


def test_a_density_that_is_not_finite_is_refused() -> None:
    class Overflowing(toy.ToyClassifier):  # type: ignore[misc]
        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            return super().__call__(image) * tf.where(tf.reduce_max(tf.abs(image)) > 0, np.nan, 1.0)

    serving = Serving(Networks(with_shape(toy.ToyGenerator()), Overflowing()), [], toy_plan())
    go_on = serving.signatures()["continue"]
    asked = {"label": tf.constant(["no"]), "seed": tf.constant([1], tf.int64), "num_steps": tf.constant([0])}
    assert np.isfinite(go_on(**asked, z=tf.zeros([1, 6]))["target_log_prob"])
    with pytest.raises(tf.errors.InvalidArgumentError, match="z: expected a point of finite density"):
        go_on(**asked, z=tf.ones([1, 6]))


def test_labels_that_differ_only_in_case_are_distinguished() -> None:
    plan = toy_plan(labels=(Label("Yes"), Label("yes")), indices=(0, 1))
    sample = Serving(Networks(with_shape(toy.ToyGenerator()), toy.ToyClassifier()), [], plan).signatures()["sample"]
    asked = dict(seed=tf.constant([3, 3, 3], tf.int64), num_steps=tf.constant([0, 0, 0]))
    first, second, spelt = sample(label=tf.constant(["Yes", "yes", " YES "]), **asked)["class_prob"].numpy()
    assert first != second
    assert first == spelt


def exact_draws(count: int) -> np.ndarray:
    """Return exact draws of the toy posterior of class 1, by rejection."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(20 * count, 6))
    return z[rng.uniform(size=len(z)) < 1 / (1 + np.exp(-toy.SLOPE * z[:, 0]))][:count].astype(np.float32)


@pytest.mark.parametrize(("name", "is_right"), [("continue", True), ("continue_batched", True), ("continue_batched", False)])
def test_served_chains_keep_the_posterior(name: str, is_right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains start at exact draws; mean and spread of z_0 stay right. Without the Metropolis test, the error is detected."""
    if not is_right:
        step = "tfgradgen.serving.rules.nan_to_neg_inf"
        monkeypatch.setattr(step, lambda ratio: tf.zeros_like(ratio))
    serving = Serving(Networks(with_shape(toy.ToyGenerator()), toy.ToyClassifier()), [], toy_plan(batched=32))
    go_on = serving.signatures()[name]
    count = 600
    found = go_on(
        label=tf.fill([count], "yes"), seed=tf.range(count, dtype=tf.int64), num_steps=tf.fill([count], 4), z=exact_draws(count)
    )
    mean, std, class_prob = toy.exact_moments()
    z = found["z"].numpy()[:, 0]
    scores = [(z.mean() - mean) / (std / np.sqrt(count)), (z.std() / std - 1) * np.sqrt(2 * count)]
    assert (max(map(abs, scores)) < 5) == is_right, scores
    assert not is_right or abs(found["class_prob"].numpy().mean() - class_prob) < 0.05
