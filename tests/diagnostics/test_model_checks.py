"""The checks that every method makes of its models, in library and command: bad models are refused, good ones pass."""

import copy
import gc
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tfgradgen as tg
from tests.support import toy
from tfgradgen.core.checks import UserError
from tfgradgen.core.contracts import SamplerResult
from tfgradgen.diagnostics import model_checks
from tfgradgen.diagnostics.model_checks import NUM_CHECKED, admit, evidence, prior_checks
from tfgradgen.diagnostics.prior_checks import INPUT_REMEDY, NUM_PRIOR, class_checks, label_checks, prior_points
from tfgradgen.mcmc.chains import chain_chunks, sample_chains
from tfgradgen.mcmc.registry import SAMPLERS, kernel_sampler
from tfgradgen.mcmc.rejection import exact_chunks
from tfgradgen.mcmc.smc import smc_chunks
from tfgradgen.media.image import Image

RUN = tg.RunConfig(num_chains=4, init="prior")
STARTS = tf.random.stateless_normal([4, 6], [1, 2])
SCHEDULE = tg.Schedule(2, 2, 1)


class Bounded(toy.ToyGenerator):
    """The toy with images in [-1, 1], as they should be; `change` is applied to the images."""

    def __init__(self, change: Callable[[tf.Tensor], tf.Tensor] = tf.identity):
        self.change = change

    def __call__(self, z: Any) -> tf.Tensor:
        return self.change(tf.tanh(super().__call__(z)))


class Logits:
    """A classifier of `num_classes` that computes logits by a function of the image."""

    def __init__(self, fn: Callable[[tf.Tensor], tf.Tensor], num_classes: int = 2):
        self.fn, self.num_classes = fn, num_classes

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        return self.fn(image)


SOUND = Bounded(), toy.ToyClassifier()  # one pair, so that tests share its graphs


def posterior_of(generator: Any = None, classifier: Any = None, label: int = 1, **further: Any) -> tg.ClassPosterior:
    return tg.ClassPosterior(generator or SOUND[0], classifier or SOUND[1], label, **further)


def by_chains(kernel: str) -> Callable[[tg.ClassPosterior], SamplerResult]:
    return lambda posterior: tg.collect(chain_chunks(posterior, kernel, kernel_sampler(kernel).defaults, SCHEDULE, RUN, STARTS))


def by_method(name: str) -> Callable[[tg.ClassPosterior], SamplerResult]:
    method = SAMPLERS[name]
    schedule = tg.Schedule(2, 2, 1) if method.schedule.num_burnin_steps else tg.Schedule(2, 0, 0)
    return lambda posterior: tg.collect(method.chunks_fn(posterior, method.defaults, schedule, RUN, None))


# Each entry point of the library, with gradients or without.
ENTRIES: dict[str, Callable[[tg.ClassPosterior], Any]] = {
    "sample_chains": lambda p: sample_chains(p, "mala", kernel_sampler("mala").defaults, SCHEDULE, RUN, STARTS),
    "elliptical_slice": by_chains("elliptical_slice"),
    "map": by_chains("map"),
    "sample_exact": lambda p: tg.sample_exact(p, 2, RUN),
    "exact_chunks": lambda p: tg.collect(exact_chunks(p, 2, RUN)),
    "smc_chunks": lambda p: tg.collect(smc_chunks(p, SAMPLERS["smc"].defaults, 2, RUN)),
    "class_moments": lambda p: tg.class_moments(p, RUN),
    **{f"method {name}": by_method(name) for name in ("rejection", "smc", "elliptical_slice", "map", "mala")},
}


def coin(image: tf.Tensor) -> tf.Tensor:
    """Flip all images of a batch, or none."""
    return tf.where(tf.random.uniform([]) < 0.5, image, tf.reverse(image, [2]))


BAD = {
    "noise": (lambda image: image + 1e-4 * tf.random.normal(tf.shape(image)), "determinism: .*RandomStandardNormal"),
    "coin": (coin, "determinism: .*random operation RandomUniform|rows: expected the same of a latent point"),
    "batch": (lambda image: 0.4 * (image - tf.reduce_mean(image, 0)), "rows: expected the same of a latent point"),
    "shape": (lambda image: image[:, 0], r"floating-point images \[8, height, width, channels\].*float32 \[8, 2, 1\]"),
    "rows": (lambda image: image[:1], r"a row for each of 8 latent points, got float32 \[1, 2, 2, 1\]"),
    "dtype": (lambda image: tf.cast(127 * image, tf.int8), r"floating-point images .*got int8"),
    "layout": (
        lambda image: tf.ones([len(image), 3, 8, 8]) * image[:, :1, :1],
        r"\[8, 3, 8, 8\], channels first; return tf.tran",
    ),
    "nan": (lambda image: image * np.nan, "images without NaN or inf, got 0% of 64 points"),
}


# Every entry point refuses one problem of a run and one of a value, and three of them all problems: they share the checks.
REFUSED = [
    (problem, entry)
    for problem in BAD
    for entry in ENTRIES
    if problem in ("noise", "nan") or entry in ("sample_chains", "sample_exact", "method smc")
]


@pytest.mark.parametrize(("problem", "entry"), REFUSED)
def test_a_bad_model_is_refused_at_every_entry(problem: str, entry: str) -> None:
    change, text = BAD[problem]
    with pytest.raises(UserError, match=text) as error:
        ENTRIES[entry](posterior_of(Bounded(change)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_good_model_passes_every_entry_without_a_word(entry: str) -> None:
    found = ENTRIES[entry](posterior_of())
    if isinstance(found, SamplerResult):
        assert found.stats["doubts"] == []


@pytest.mark.parametrize(
    ("classifier", "text"),
    [
        (Logits(lambda image: image[:, 0, 0, 0]), r"float32 logits \[8, 2\], a row for each of 8 images, got float32 \[8\]"),
        (Logits(lambda image: tf.reduce_mean(image[:, 0, :, 0], 0, keepdims=True)), r"got float32 \[1, 2\]"),
        (Logits(lambda image: tf.cast(image[:, 0, :, 0], tf.float64)), r"float32 logits .*got float64 \[8, 2\]"),
        (Logits(lambda image: image[:, 0, :, 0] * np.nan), "p.class.: expected a finite log-likelihood .*got 0% of 64 points"),
        (Logits(lambda image: image[:, 0, :, 0] + tf.random.normal([1, 2])), "determinism: .*RandomStandardNormal"),
    ],
    ids=["rank", "rows", "dtype", "nan", "noise"],
)
def test_a_bad_classifier_is_refused(classifier: Any, text: str) -> None:
    for entry in ("sample_exact", "elliptical_slice"):
        with pytest.raises(UserError, match=text):
            ENTRIES[entry](posterior_of(classifier=classifier))


def test_a_coin_for_a_whole_batch_is_always_seen() -> None:
    """Two evaluations agree half of the time; twenty hardly ever do."""
    for _ in range(30):
        with pytest.raises(UserError, match=r"determinism|rows"):
            admit(posterior_of(Bounded(coin)), RUN, takes_gradients=False)


def test_a_stateless_operation_of_a_constant_seed_is_no_noise() -> None:
    texture = lambda image: 0.5 * image + 0.1 * tf.random.stateless_normal([2, 2, 1], [1, 2])  # noqa: E731
    assert admit(posterior_of(Bounded(texture)), RUN, takes_gradients=True).warnings == []


def test_a_seed_that_moves_on_is_named() -> None:
    state = tf.Variable([1, 2])

    def noisy(image: tf.Tensor) -> tf.Tensor:
        state.assign_add([1, 1])
        return 0.5 * image + 0.1 * tf.random.stateless_uniform(tf.shape(image), state.read_value())

    with pytest.raises(UserError, match="random operation StatelessRandom"):
        admit(posterior_of(Bounded(noisy)), RUN, takes_gradients=False)


def test_noise_of_python_that_a_graph_would_freeze_is_refused() -> None:
    """The chains and the saved images would have different noise."""
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="determinism"):
        admit(posterior_of(Bounded(lambda image: 0.5 * image + rng.normal() / 10)), RUN, takes_gradients=False)


def test_nan_for_part_of_z_is_said() -> None:
    partly = Bounded(lambda image: tf.where(image[:, :1, :1] > 0, image, np.nan))
    found = tg.collect(exact_chunks(posterior_of(partly), 1, RUN)).stats["doubts"]
    assert [line.split(":")[0] for line in found] == ["generator"]
    assert "NaN or inf for part of z" in found[0]
    assert "image_range" not in found[0]


def spread(scale: float, offset: float = 0.0) -> Logits:
    return Logits(lambda image: tf.stack([tf.zeros_like(image[:, 0, 0, 0]), offset + scale * image[:, 0, 0, 0]], -1))


@pytest.mark.parametrize(
    ("classifier", "words"),
    [
        (spread(3.0), []),
        (spread(0.6), []),
        (spread(0.05), ["varies"]),
        (spread(0.05, 9.0), ["varies"]),
        (spread(0.5, 4.0), []),
        (Logits(lambda image: 0.0 * image[:, 0, 0], 1), ["varies"]),
        (spread(3.0, -30.0), ["some prior draw"]),
        (spread(3.0, -8.0), []),
    ],
    ids=["good", "weak", "flat", "flat at one", "likely everywhere", "one class", "out of reach", "rare"],
)
def test_a_class_that_hardly_varies_or_is_out_of_reach_is_said(classifier: Any, words: list[str]) -> None:
    label = classifier.num_classes - 1
    found = admit(posterior_of(classifier=classifier, label=label), RUN, takes_gradients=False).warnings
    assert len(found) == len(words)
    for line, word in zip(found, words, strict=True):
        assert word in line
        assert INPUT_REMEDY in line


def test_the_bound_of_a_flat_class_is_that_of_its_gain() -> None:
    """At the bound, the posterior is 0.005 nats from the prior (by quadrature); 200 draws are needed to distinguish them."""
    z = np.random.default_rng(0).standard_normal(200_000)
    log_prob = 0.1 * z
    weight = np.exp(log_prob) / np.exp(log_prob).mean()
    assert (weight * np.log(weight)).mean() == pytest.approx(0.005, rel=0.03)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return np.asarray(tf.nn.log_softmax(logits.astype(np.float32)))


@pytest.mark.parametrize(
    ("logits", "is_ok"),
    [
        (lambda rng: 3.0 * rng.standard_normal([NUM_PRIOR, 10]), True),
        (lambda rng: 0.5 * rng.standard_normal([NUM_PRIOR, 10]), True),
        (lambda rng: 0.03 * rng.standard_normal([NUM_PRIOR, 10]), False),
        (lambda rng: 1.0 * rng.standard_normal([NUM_PRIOR, 10]) + 8.0 * np.eye(10)[9], False),
        (lambda rng: 0.0 * rng.standard_normal([NUM_PRIOR, 10]) + np.arange(10), False),
    ],
    ids=["sharp", "vague", "near uniform", "all of one class", "always the same"],
)
def test_images_that_look_like_no_class_are_said(logits: Any, is_ok: bool) -> None:
    found = list(class_checks(log_softmax(logits(np.random.default_rng(1))), object(), Image(())))
    assert [check.is_ok for check in found] == [is_ok]
    assert not found[0].is_grave


def test_two_classes_may_be_of_one_kind() -> None:
    """All prior draws may miss a rare condition."""
    assert list(class_checks(log_softmax(np.tile([9.0, 0.0], [NUM_PRIOR, 1])), object(), Image(()))) == []
    assert all(
        check.is_ok for check in label_checks(log_softmax(np.random.default_rng(2).normal(size=[64, 2]))[:, 1], 2, Image(()))
    )


def test_the_shipped_pair_passes_all_checks() -> None:
    from tfgradgen.models.shipped import default_model

    pair = tg.load_generator(default_model("generator")), tg.load_classifier(default_model("classifier"))
    failed = {check.what for label in range(20) for check in prior_checks(posterior_of(*pair, label=label)) if not check.is_ok}
    assert failed == set()


def test_doubts_are_warned_of_where_the_library_is_called() -> None:
    flat = posterior_of(classifier=spread(0.05))
    with pytest.warns(UserWarning, match=r"p\(class\) that varies over prior draws"):
        tg.sample_exact(flat, 1, RUN)
    with pytest.warns(UserWarning, match=r"p\(class\) that varies over prior draws"):
        ENTRIES["sample_chains"](flat)
    assert len(ENTRIES["exact_chunks"](flat).stats["doubts"]) == 1
    for name in ("rejection", "elliptical_slice", "mala"):
        assert len(by_method(name)(flat).stats["doubts"]) == 1, "and not warned of, where the command prints them"


def test_gradients_are_asked_of_methods_that_take_them_only() -> None:
    rounded = posterior_of(Bounded(lambda image: tf.round(3 * image) / 3))
    for entry in ("sample_exact", "elliptical_slice", "method rejection"):
        ENTRIES[entry](rounded)
    for entry in ("sample_chains", "map", "smc_chunks", "method smc"):
        with pytest.raises(UserError, match="non-zero gradient"):
            ENTRIES[entry](rounded)


class Counting(Bounded):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __call__(self, z: Any) -> tf.Tensor:
        self.count += 1
        return super().__call__(z)


def test_the_checks_are_made_once_for_all_labels_seeds_and_temperatures() -> None:
    generator, classifier = Counting(), toy.ToyClassifier()
    admit(posterior_of(generator, classifier, 0), RUN, takes_gradients=False)
    count = generator.count
    for label, temperature in ((0, 1.0), (1, 1.0), (1, 2.0)):
        admit(posterior_of(generator, classifier, label, temperature=temperature), RUN, takes_gradients=False)
    assert generator.count == count
    assert len(evidence(posterior_of(generator, classifier).networks).log_probs) == NUM_PRIOR


def test_nothing_keeps_the_models_alive() -> None:
    generator, classifier = Bounded(), toy.ToyClassifier()
    ENTRIES["sample_chains"](posterior_of(generator, classifier))
    ENTRIES["sample_exact"](posterior_of(generator, classifier))
    assert copy.deepcopy(generator)(STARTS).shape == (4, 2, 2, 1)
    gone = weakref.ref(generator), weakref.ref(classifier)
    del generator, classifier
    gc.collect()
    assert [each() for each in gone] == [None, None]


@dataclass
class PlainGenerator:
    """A generator that is not hashable, like dataclasses by default."""

    latent_dim: int = 6

    def __call__(self, z: tf.Tensor) -> tf.Tensor:
        return Bounded()(z)


@dataclass
class PlainClassifier:
    num_classes: int = 2

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        return toy.ToyClassifier()(image)


class Slotted(PlainGenerator):
    __slots__ = ()


def test_models_need_no_hash() -> None:
    plain = posterior_of(PlainGenerator(), PlainClassifier())
    same = posterior_of()
    for entry in ("sample_chains", "sample_exact"):
        np.testing.assert_array_equal(ENTRIES[entry](plain)[0].z, ENTRIES[entry](same)[0].z)


def test_a_temperature_may_be_a_tensor_or_of_numpy() -> None:
    expected = ENTRIES["sample_chains"](posterior_of(temperature=2.0))[0].z
    for temperature in (tf.constant(2.0), tf.Variable(2.0), np.float32(2.0)):
        np.testing.assert_array_equal(ENTRIES["sample_chains"](posterior_of(temperature=temperature))[0].z, expected)
    for bad, text in ((tf.constant([1.0, 2.0]), r"one number, got a tensor of shape \[2\]"), (tf.constant(-1.0), "above 0")):
        for entry in ("sample_chains", "sample_exact", "smc_chunks"):
            with pytest.raises(UserError, match=f"temperature: .*{text}"):
                ENTRIES[entry](posterior_of(temperature=bad))


def test_labels_and_counts_may_be_of_numpy() -> None:
    assert int(posterior_of(label=np.int64(1)).label) == 1
    with pytest.raises(UserError, match=r"label: expected an integer in 0..1, got .*2"):
        posterior_of(label=np.int64(2))
    with pytest.raises(UserError, match="label: expected an integer"):
        posterior_of(label=np.float64(1.0))
    with pytest.raises(UserError, match="label: expected an integer"):
        posterior_of(label=np.bool_(True))


def test_start_points_of_other_types_and_shapes() -> None:
    draw = lambda z: sample_chains(posterior_of(), "mala", kernel_sampler("mala").defaults, SCHEDULE, RUN, z)[0].z  # noqa: E731
    expected = draw(STARTS)
    np.testing.assert_array_equal(draw(STARTS.numpy().astype(np.float64)), expected)
    np.testing.assert_array_equal(draw(STARTS.numpy().tolist()), expected)
    for bad, text in (
        (
            STARTS[:2],
            r"start points \[4, 6\], .*got shape \[2, 6\]; give RunConfig\(num_chains=2\)",
        ),
        (STARTS[:, :5], r"start points \[4, 6\], .* got shape \[4, 5\]"),
        (STARTS[0], r"got shape \[6\]"),
        (np.full([4, 6], np.nan), "finite start points, got NaN or inf"),
        ("four", "start points"),
    ):
        with pytest.raises(UserError, match=f"init_z: expected .*{text}"):
            draw(bad)


def test_settings_of_another_method_are_refused() -> None:
    run = lambda kernel, config: sample_chains(posterior_of(), kernel, config, SCHEDULE, RUN, STARTS)  # noqa: E731
    with pytest.raises(UserError, match="config: expected settings of class HmcConfig, as hmc takes, got MalaConfig"):
        run("hmc", tg.MalaConfig(0.3, 0.5))
    with pytest.raises(UserError, match=r"kernel: .*did you mean mala"):
        run("malla", tg.MalaConfig(0.3, 0.5))
    with pytest.raises(UserError, match="config: expected settings of class SmcConfig, as smc takes, got MalaConfig"):
        tg.collect(smc_chunks(posterior_of(), tg.MalaConfig(0.3, 0.5), 2, RUN))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"temprature": 2.0}, "ClassPosterior: .*got temprature; did you mean temperature"),
        ({"max_batches": 2}, "did you mean max_batch"),
        ({"max_batch": 0}, "max_batch: expected an integer of at least 1"),
        ({"discriminator_weight": -1.0}, "discriminator_weight: expected a number of at least 0"),
    ],
)
def test_keywords_that_the_posterior_has_not(given: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        posterior_of(**given)


@pytest.mark.parametrize("entry", ["sample_chains", "sample_exact", "smc_chunks", "map"])
def test_no_method_computes_in_tensorfloat_32(entry: str) -> None:
    """It is off while the models are evaluated and stays off, although a process may switch it on again in between."""
    seen = list[bool]()

    class Watching(toy.ToyClassifier):
        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            seen.append(tf.config.experimental.tensor_float_32_execution_enabled())
            return super().__call__(image)

    for _ in range(2):
        tf.config.experimental.enable_tensor_float_32_execution(True)
        try:
            ENTRIES[entry](posterior_of(classifier=Watching()))
            assert not tf.config.experimental.tensor_float_32_execution_enabled()
        finally:
            tf.config.experimental.enable_tensor_float_32_execution(False)
    assert seen
    assert not any(seen)


def test_it_is_switched_off_again_before_each_chunk() -> None:
    chunks = chain_chunks(posterior_of(), "mala", kernel_sampler("mala").defaults, SCHEDULE, RUN, STARTS)
    try:
        for _ in chunks:
            assert not tf.config.experimental.tensor_float_32_execution_enabled()
            tf.config.experimental.enable_tensor_float_32_execution(True)
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(False)


@pytest.mark.usefixtures("same_weights")
def test_a_model_of_keras_that_flips_at_random_is_refused_by_name(tmp_path: Path) -> None:
    """`model.export` leaves the layer active, so the same image gets different scores."""
    import keras

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layers = [keras.Input([8, 8, 3]), keras.layers.RandomFlip("horizontal", seed=1), keras.layers.Flatten()]
        model = keras.Sequential([*layers, keras.layers.Dense(3)])
        model.export(str(tmp_path / "c"), verbose=False)
    labels = [{"name": name} for name in "abc"]
    classifier = tg.load_classifier(tmp_path / "c", image_range=(-1, 1), output="logits", labels=labels)
    generator = tg.load_generator(toy.save_pair(tmp_path / "pair")[0])
    for entry in ("sample_exact", "elliptical_slice", "sample_chains"):
        with pytest.raises(UserError, match="random operation StatelessRandomUniform"):
            ENTRIES[entry](tg.ClassPosterior(generator, classifier, 1))


def test_gradients_are_checked_where_a_model_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models give NaN at the first points, whichever these are; the check uses other points."""
    first = np.asarray(prior_points(6))[:NUM_CHECKED, 0]

    def partly(image: tf.Tensor) -> tf.Tensor:
        is_first = tf.reduce_any(tf.abs(image[:, 0, 0, 0][:, None] - np.tanh(first)) < 1e-6, 1)
        return tf.where(is_first[:, None, None, None], np.nan, image)

    posterior = posterior_of(Bounded(partly))
    z, prob = model_checks.checked_points(posterior.networks, 1, NUM_CHECKED)
    assert np.isfinite(prob).all()
    assert not set(np.asarray(z)[:, 0]) & set(first)
    (line,) = admit(posterior, RUN, takes_gradients=True).warnings
    assert line.startswith("generator: ")
    only_gradients = model_checks.checked_gradients(posterior, RUN)
    assert all(check.is_ok for check in only_gradients), only_gradients


@pytest.mark.parametrize(("offset", "expected"), [(12.0, []), (-12.0, []), (0.0, ["scales"])])
def test_a_condition_that_nearly_all_meet_may_have_a_small_gradient(offset: float, expected: list[str]) -> None:
    """p(class 1) = sigmoid(offset + 0.5 pixel): if it is nearly 1, its log has hardly any gradient.

    At p = 1/2 it should have one.
    """
    scale = 0.5 if offset else 1e-4
    posterior = posterior_of(Bounded(), spread(scale, offset))
    found = model_checks.checked_gradients(posterior, RUN)
    assert [check.what for check in found if not check.is_ok] == expected


def test_a_discriminator_that_is_not_finite_is_said() -> None:
    def of_image(image: tf.Tensor) -> tf.Tensor:
        return tf.where(image[:, 0, 1, 0] > 0.5, np.nan, image[:, 0, 1, 0])

    posterior = posterior_of(discriminator=of_image, discriminator_weight=1.0)
    (line,) = admit(posterior, RUN, takes_gradients=True).warnings
    assert line.startswith("discriminator: expected finite log-odds at prior draws, found ")
    never = posterior_of(discriminator=lambda image: image[:, 0, 1, 0] * np.nan, discriminator_weight=1.0)
    with pytest.raises(UserError, match="discriminator: expected finite log-odds at prior draws, got 0% of 64 points"):
        admit(never, RUN, takes_gradients=False)


@pytest.mark.parametrize("value", [2.5, 0, -1, True, None, "6", "missing"])
def test_sizes_that_are_no_whole_numbers_are_refused(value: Any) -> None:
    generator, classifier = toy.ToyGenerator(), toy.ToyClassifier()
    for model, name in ((generator, "latent_dim"), (classifier, "num_classes")):
        with pytest.MonkeyPatch.context() as patch:
            patch.delattr(type(model), name) if value == "missing" else patch.setattr(type(model), name, value)
            with pytest.raises(UserError, match=f"a {name}, an integer of at least 1, got"):
                tg.ClassPosterior(generator, classifier, 1)
