"""The joint distribution, its parts, and the shapes that keep chains separate."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests.support.toy import SLOPE, ToyClassifier, ToyGenerator, exact_moments
from tfgradgen.core.backend import as_seed
from tfgradgen.core.checks import UserError
from tfgradgen.core.config import RunConfig
from tfgradgen.core.contracts import Regularization
from tfgradgen.diagnostics import model_checks, preflight
from tfgradgen.diagnostics.model_checks import admit
from tfgradgen.diagnostics.prior_checks import NUM_FORWARD
from tfgradgen.models.classifier import Classifier
from tfgradgen.models.condition import ConditionClassifier
from tfgradgen.models.loading.metadata import Label
from tfgradgen.posterior import ClassPosterior

tfde = tfp.experimental.distributions


def make(**kwargs: Any) -> ClassPosterior:
    return ClassPosterior(ToyGenerator(), ToyClassifier(), kwargs.pop("label", 1), **kwargs)


def test_densities_are_the_closed_form() -> None:
    z = tf.random.stateless_normal([5, 6], [0, 1])
    prior = -0.5 * np.sum(np.square(z), -1) - 3 * np.log(2 * np.pi)
    log_prob = -np.log1p(np.exp(-SLOPE * z[:, 0].numpy()))
    posterior = make(temperature=2.0)
    np.testing.assert_allclose(posterior.prior_log_prob(z), prior, rtol=1e-5)
    np.testing.assert_array_equal(posterior.prior_log_prob(z), posterior.prior.log_prob(z))
    np.testing.assert_allclose(posterior.class_log_prob(z), log_prob, rtol=1e-5)
    np.testing.assert_allclose(posterior.likelihood_log_prob(z), log_prob / 2, rtol=1e-5)
    np.testing.assert_allclose(posterior.unnormalized_log_prob(z), prior + log_prob / 2, rtol=1e-5)
    np.testing.assert_allclose(posterior.class_prob_of(z, posterior.unnormalized_log_prob(z)), np.exp(log_prob), rtol=1e-4)


def rough(z: tf.Tensor) -> Regularization:
    return Regularization(0.3, tf.reduce_mean(z, 0), tf.math.reduce_std(z, 0))


def energy(image: tf.Tensor) -> tf.Tensor:
    return tf.sin(image[:, 1, 1, 0])


def test_it_is_a_pinned_joint_distribution_of_tfp() -> None:
    posterior, z = make(), tf.random.stateless_normal([4, 6], [0, 1])
    pinned = posterior.distribution.experimental_pin(label=1)
    assert isinstance(posterior, tfde.JointDistributionPinned)
    np.testing.assert_allclose(posterior.unnormalized_log_prob(z), pinned.unnormalized_log_prob(z), rtol=1e-6)
    for name in ("event_shape", "dtype", "reparameterization_type", "experimental_shard_axis_names", "validate_args"):
        assert getattr(posterior, name) == getattr(pinned, name), name
    assert posterior.event_shape_tensor()["z"].numpy().tolist() == pinned.event_shape_tensor()["z"].numpy().tolist() == [6]
    assert posterior.batch_shape == []
    assert posterior.batch_shape_tensor().shape == [0]
    assert list(posterior.pins) == list(pinned.pins) == ["label"]
    assert set(posterior.unpin("label").sample(3, seed=as_seed(0))) == {"z", "label"}
    assert posterior.experimental_pin(z=z).pins["z"].shape == [4, 6]
    assert posterior.sample_unpinned([2, 3], seed=1)["z"].shape == [2, 3, 6]
    drawn, weight = posterior.sample_and_log_weight(5, seed=2)
    np.testing.assert_allclose(weight, posterior.class_log_prob(drawn["z"]), rtol=1e-5)
    bijector = posterior.experimental_default_event_space_bijector()
    np.testing.assert_array_equal(bijector.forward({"z": z})["z"], z)
    assert repr(posterior).startswith("<tfgradgen.ClassPosterior '1' temperature=1.0 batch_shape=[] event_shape={'z': [6]}")


def test_z_comes_by_position_by_name_or_in_a_structure() -> None:
    posterior, z = make(), tf.random.stateless_normal([4, 6], [0, 1])
    expected = posterior.unnormalized_log_prob(z)
    for method in (posterior.unnormalized_log_prob, posterior.log_prob):
        for found in (method(z=z), method({"z": z}), method([z]), method((z,)), method(z.numpy()), method(z.numpy().tolist())):
            np.testing.assert_array_equal(found, expected)
    with pytest.raises(UserError, match="z: expected the key z only, got y"):
        posterior.unnormalized_log_prob({"y": z})


def test_float64_points_are_computed_in_float32_and_come_back_as_they_were() -> None:
    posterior, z = make(), tf.random.stateless_normal([4, 6], [0, 1])
    wide = tf.cast(z, tf.float64)
    found = posterior.unnormalized_log_prob(wide)
    assert found.dtype == tf.float64
    np.testing.assert_array_equal(tf.cast(found, tf.float32), posterior.unnormalized_log_prob(z))
    assert posterior.unnormalized_log_prob(wide.numpy()).dtype == tf.float32
    kernel = tfp.mcmc.HamiltonianMonteCarlo(posterior.unnormalized_log_prob, np.float64(0.3), 2)
    draws = tfp.mcmc.sample_chain(2, wide, kernel=kernel, trace_fn=None, seed=as_seed(2))
    assert draws.dtype == tf.float64
    assert np.isfinite(draws).all()
    for bad in (tf.zeros([2, 6], tf.int32), tf.zeros([2, 6], tf.complex64), "z", [["a"] * 6]):
        with pytest.raises(UserError, match="z: expected floating-point numbers"):
            posterior.unnormalized_log_prob(bad)


def test_every_density_of_the_target_holds_all_of_its_terms() -> None:
    z = tf.random.stateless_normal([4, 6], [0, 1])
    posterior = make(temperature=2.0, regularization=rough(z), discriminator=energy, discriminator_weight=0.7)
    _, mean, scale = rough(z)
    image = ToyGenerator()(z)
    pull = -0.15 * tf.reduce_sum(tf.square((z - mean) / scale), -1)
    prior = posterior.prior_log_prob(z)
    others = tf.nn.log_softmax(ToyClassifier()(image))[:, 1] / 2.0 + 0.7 * energy(image) + pull
    for found in (posterior.unnormalized_log_prob(z), posterior.log_prob(z), posterior.experimental_sample_and_log_prob(4, 1)):
        if isinstance(found, tuple):
            found, expected = found[1], posterior.unnormalized_log_prob(found[0])
        else:
            expected = prior + others
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    for parts in (posterior.unnormalized_log_prob_parts(z), posterior.log_prob_parts(z)):
        np.testing.assert_allclose(parts.unpinned["z"], prior, rtol=1e-6)
        np.testing.assert_allclose(parts.pinned["label"], others, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(posterior.log_weight(z), others, rtol=1e-4, atol=1e-5)


def test_the_networks_are_evaluated_once_and_not_to_make_it() -> None:
    calls = []

    class Counting(ToyGenerator):
        def __call__(self, z: Any) -> tf.Tensor:
            calls.append(len(z))
            return super().__call__(z)

    posterior, z = ClassPosterior(Counting(), ToyClassifier(), [0, 1, 1]), tf.zeros([3, 6])
    assert all([posterior.dtype, posterior.event_shape, posterior.batch_shape, repr(posterior)])
    posterior.sample_unpinned(seed=1)
    posterior.experimental_default_event_space_bijector().inverse({"z": z})
    assert calls == []
    for method in (posterior.unnormalized_log_prob, posterior.log_prob_parts, posterior.log_weight, posterior.objectives):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = tf.nest.flatten(method(z))[0]
        assert tape.gradient(value, z) is not None
        assert calls == [3]
        calls.clear()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hmc", "nuts"])
def test_tfps_windowed_sampling_takes_it(kind: str) -> None:
    posterior = make(temperature=2.0)
    sample = getattr(tfp.experimental.mcmc, f"windowed_adaptive_{kind}")
    more = {"num_leapfrog_steps": 3} if kind == "hmc" else {}

    @tf.function(autograph=False)
    def run() -> Any:
        return sample(60, posterior, n_chains=[16], num_adaptation_steps=120, seed=as_seed(3), **more)

    draws, trace = run()
    assert draws["z"].shape == (60, 16, 6)
    np.testing.assert_allclose(trace["target_log_prob"][-1], posterior.unnormalized_log_prob(draws["z"][-1]), rtol=1e-4)
    means = draws["z"][..., 0].numpy().mean(0)
    tempered, plain = (abs(means.mean() - exact_moments(t)[0]) / means.std(ddof=1) * 4 for t in (2.0, 1.0))
    assert tempered < 4 < plain, "that of the untempered posterior fails"


@pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 3)])
def test_one_value_per_chain_for_any_batch(batch: tuple[int, ...]) -> None:
    posterior, z = make(), tf.random.stateless_normal([*batch, 6], [0, 1])
    for fn in (posterior.prior_log_prob, posterior.likelihood_log_prob, posterior.unnormalized_log_prob):
        assert fn(z).shape == batch
    flat = posterior.unnormalized_log_prob(tf.reshape(z, [-1, 6]))
    np.testing.assert_allclose(tf.reshape(posterior.unnormalized_log_prob(z), [-1]), flat, rtol=1e-6)


def test_a_classifier_that_mixes_the_batch_is_refused() -> None:
    classifier = ToyClassifier()

    class Scalar:
        num_classes = 2

        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            return tf.reduce_mean(classifier(image), 0)

    with pytest.raises(UserError, match="logits"):
        ClassPosterior(ToyGenerator(), Scalar(), 0).unnormalized_log_prob(tf.zeros([3, 6]))


@pytest.mark.parametrize("shape", [[], [5], [3, 5]])
def test_z_of_another_width_is_refused(shape: list[int]) -> None:
    with pytest.raises(UserError, match=r"z: expected shape \[..., 6\]"):
        make().unnormalized_log_prob(tf.zeros(shape))


@pytest.mark.parametrize("kwargs", [{"label": 2}, {"label": -1}, {"label": 1.0}, {"temperature": 0.0}])
def test_arguments_out_of_range(kwargs: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        make(**kwargs)


@pytest.mark.parametrize("value", [-2.0, 0.0, np.nan, np.inf, -1])
def test_a_temperature_that_is_a_tensor_is_checked_where_it_is_known(value: float) -> None:
    for given in (tf.constant(value), tf.Variable(value), tf.constant(value, tf.float64)):
        with pytest.raises(UserError, match="temperature: expected a number above 0, got "):
            make(temperature=given)


def test_a_temperature_of_a_graph_is_a_tensor() -> None:
    z = tf.random.stateless_normal([3, 6], [0, 1])
    expected = make(temperature=2.0).unnormalized_log_prob(z)
    for given in (tf.constant(2), tf.constant(2.0, tf.float64), tf.constant(2.0)):
        np.testing.assert_allclose(make(temperature=given).unnormalized_log_prob(z), expected, rtol=1e-6)
        in_graph = tf.function(lambda temperature: make(temperature=temperature).unnormalized_log_prob(z))
        np.testing.assert_allclose(in_graph(given), expected, rtol=1e-6)


def test_any_tfp_kernel_takes_it() -> None:
    posterior = make()
    kernel = tfp.mcmc.NoUTurnSampler(posterior.unnormalized_log_prob, step_size=0.3)
    draws = tfp.mcmc.sample_chain(3, posterior.sample_prior(2, as_seed(1)), kernel=kernel, trace_fn=None, seed=as_seed(2))
    assert draws.shape == (3, 2, 6)
    assert np.isfinite(draws).all()


def test_prior_draws_are_standard_normal_and_follow_the_seed() -> None:
    posterior = make()
    z = posterior.sample_prior(4000, as_seed(3)).numpy()
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / z.size)
    np.testing.assert_array_equal(z, posterior.sample_prior(4000, as_seed(3)))


def test_preflight_takes_no_eager_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eager gradient would make every later graph of a SavedModel slower and larger."""

    def value_and_gradient(fn: Any, z: tf.Tensor) -> Any:
        assert not tf.executing_eagerly()
        return preflight.value_and_gradient(fn, z)

    monkeypatch.setattr(model_checks, "value_and_gradient", value_and_gradient)
    admit(ClassPosterior(ToyGenerator(), ToyClassifier(), 1), RunConfig(), takes_gradients=True)


def test_preflight_sees_a_missing_gradient_that_the_prior_hides() -> None:
    class Rounds(ToyGenerator):
        def __call__(self, z: Any) -> tf.Tensor:
            return tf.cast(tf.cast(super().__call__(z) * 100, tf.int32), tf.float32) / 100

    class IsNan(ToyGenerator):
        def __call__(self, z: Any) -> tf.Tensor:
            return super().__call__(z) * np.nan

    assert admit(make(), RunConfig(), True).cost == [16, NUM_FORWARD]
    assert admit(make(), RunConfig(), False).cost == [0, NUM_FORWARD]
    with pytest.raises(UserError, match="non-zero gradient"):
        admit(ClassPosterior(Rounds(), ToyClassifier(), 1), RunConfig(), True)
    for takes_gradients in (True, False):
        with pytest.raises(UserError, match="images without NaN or inf, got 0% of 64 points"):
            admit(ClassPosterior(IsNan(), ToyClassifier(), 1), RunConfig(), takes_gradients)


FRUITS = (Label("goldfish", "n01443537", "goldfish, Carassius auratus"), Label("orange", "n07747607"), Label("king_penguin"))


def fruits(**further: Any) -> Classifier:
    return Classifier(
        lambda image: 3.0 * image[:, 0, :, 0] @ tf.constant([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]]), FRUITS, (2, 2), **further
    )


def named(label: Any, classifier: Any = None) -> ClassPosterior:
    return ClassPosterior(ToyGenerator(), classifier or fruits(), label)


@pytest.mark.parametrize(
    ("label", "index"),
    [
        ("goldfish", 0),
        ("n07747607", 1),
        ("King Penguin", 2),
        ("carassius auratus", 0),
        ("2", 2),
        (1, 1),
        (np.int64(2), 2),
        (np.array(1), 1),
        (tf.constant(2), 2),
        (tf.constant(2, tf.int64), 2),
    ],
)
def test_a_label_is_a_name_an_id_an_index_or_a_tensor(label: Any, index: int) -> None:
    posterior, z = named(label), tf.random.stateless_normal([4, 6], [0, 1])
    assert (posterior.label.dtype, posterior.label.shape) == (tf.int32, [])
    assert int(posterior.label) == index
    assert posterior.label_names == [FRUITS[index].name]
    np.testing.assert_array_equal(posterior.class_log_prob(z), named(index).class_log_prob(z))
    assert int(posterior.copy(label="orange").label) == 1


@pytest.mark.parametrize(
    "labels",
    [
        [0, 2, 2, 1],
        ("goldfish", 2, "king penguin", np.int64(1)),
        np.array([0, 2, 2, 1]),
        np.array(["goldfish", "2", "king_penguin", "orange"]),
        tf.constant([0, 2, 2, 1]),
    ],
)
def test_labels_one_per_chain(labels: Any) -> None:
    posterior, z = named(labels), tf.random.stateless_normal([4, 6], [0, 1])
    assert posterior.label.numpy().tolist() == [0, 2, 2, 1]
    assert posterior.batch_shape == [4]
    assert posterior.batch_shape_tensor().numpy().tolist() == [4]
    assert posterior.sample_unpinned(3, seed=1)["z"].shape == (3, 4, 6)
    joint = posterior.distribution.experimental_pin(label=posterior.label)
    np.testing.assert_allclose(posterior.unnormalized_log_prob(z), joint.unnormalized_log_prob(z), rtol=1e-5)
    methods = ("class_log_prob", "likelihood_log_prob", "prior_log_prob", "unnormalized_log_prob", "objectives")
    for name in methods:
        found = np.stack(tf.nest.flatten(getattr(posterior, name)(z)))
        for chain, label in enumerate([0, 2, 2, 1]):
            alone = np.stack(tf.nest.flatten(getattr(named(label), name)(z[chain])))
            np.testing.assert_allclose(found[:, chain], alone, rtol=1e-5)
    np.testing.assert_allclose(
        posterior.unnormalized_log_prob(tf.stack([z, -z]))[1], posterior.unnormalized_log_prob(-z), rtol=1e-6
    )
    assert posterior.unnormalized_log_prob(z[0]).shape == [4], "one point, for each of the labels"
    assert [(int(each.label), places.tolist()) for each, places in posterior.each_label()] == [(0, [0]), (2, [1, 2]), (1, [3])]
    with pytest.raises(UserError, match=r"z: expected shape \[..., 4, 6\], one row for each of 4 labels, got \[3, 6\]"):
        posterior.unnormalized_log_prob(z[:3])


def test_labels_of_a_graph_are_one_per_chain() -> None:
    z = tf.random.stateless_normal([4, 6], [0, 1])
    for xla in (False, True):
        spec = [tf.TensorSpec([None, 6]), tf.TensorSpec([None], tf.int32)]
        in_graph = tf.function(lambda z, labels: named(labels).unnormalized_log_prob(z), spec, jit_compile=xla)
        labels = tf.constant([0, 2, 2, 1])
        np.testing.assert_allclose(in_graph(z, labels), named(labels).unnormalized_log_prob(z), rtol=1e-5)
        for other in ([1], [1, 2]):
            with pytest.raises(tf.errors.InvalidArgumentError):
                in_graph(z, tf.constant(other))
    with pytest.raises(UserError, match=r"z: expected shape \[..., 1, 6\], one row for each of 1 labels, got \[4, 6\]"):
        named([1]).unnormalized_log_prob(z)


def test_points_and_labels_of_unknown_rank_are_refused() -> None:
    of_points = tf.function(lambda z: named(1).unnormalized_log_prob(z), [tf.TensorSpec(None)], autograph=False)
    with pytest.raises(UserError, match=r"z: expected shape \[..., 6\], got <unknown>"):
        of_points(tf.zeros([2, 6]))
    of_labels = tf.function(lambda label: named(label).own_seed(1), [tf.TensorSpec(None, tf.int32)], autograph=False)
    with pytest.raises(
        UserError, match="label: expected an integer tensor, with one label or one per chain, got int32 of shape <unknown>"
    ):
        of_labels(tf.constant(1))


def test_a_range_is_a_vector_of_labels() -> None:
    assert named(range(1, 3)).label.numpy().tolist() == [1, 2]


def test_it_is_copied_and_says_that_it_cannot_be_pickled() -> None:
    posterior, z = make(temperature=2.0), tf.random.stateless_normal([3, 6], [0, 1])
    for again in (copy.deepcopy(posterior), copy.copy(posterior)):
        assert again is not posterior
        np.testing.assert_array_equal(again.unnormalized_log_prob(z), posterior.unnormalized_log_prob(z))
    with pytest.raises(UserError, match="ClassPosterior: expected an object that can be pickled"):
        pickle.dumps(posterior)


def test_tfps_own_sampling_takes_labels_one_per_chain() -> None:
    posterior = ClassPosterior(ToyGenerator(), ToyClassifier(), [0, 1] * 20)
    kernel = tfp.mcmc.HamiltonianMonteCarlo(posterior.unnormalized_log_prob, 0.7, 3)
    run = tf.function(tfp.mcmc.sample_chain, autograph=False)
    start = posterior.sample_unpinned(seed=as_seed(1))["z"]
    means = run(60, start, kernel=kernel, num_burnin_steps=30, trace_fn=None, seed=as_seed(2)).numpy()[..., 0].mean(0)
    mean = exact_moments()[0]
    for own, expected in ((means[::2], -mean), (means[1::2], mean)):
        error = own.std(ddof=1) / np.sqrt(20)
        assert abs(own.mean() - expected) < 4.5 * error
        assert abs(own.mean() + expected) > 20 * error, "that of the other label"


def test_a_vector_of_labels_has_its_own_stream() -> None:
    vectors = [[0, 1], [1, 0], [0, 0], [1, 1], [0, 1, 1], [2, 1, 1]]
    seeds = [named(labels).own_seed(5).numpy().tolist() for labels in (*vectors, 0, 1, 2)]
    assert len({tuple(seed) for seed in seeds}) == len(seeds)
    in_graph = tf.function(lambda labels: named(labels).own_seed(as_seed(5)))
    assert in_graph(tf.constant([0, 1])).numpy().tolist() == seeds[0]
    assert named([0, 1]).own_seed(6).numpy().tolist() != seeds[0]


def test_a_condition_is_a_label() -> None:
    posterior, z = named("goldfish & !orange"), tf.random.stateless_normal([5, 6], [0, 1])
    assert isinstance(posterior.classifier, ConditionClassifier)
    assert posterior.label_names == [str(posterior.classifier.expression)]
    logits = tf.nn.log_softmax(fruits()(ToyGenerator()(z)))
    odds = posterior.class_log_prob(z)
    assert np.isfinite(odds).all()
    assert np.all(odds <= logits[:, 0] + 1e-5)
    scores = named("orange", fruits(output="scores"))
    assert isinstance(scores.classifier, ConditionClassifier), "a class of a classifier of scores is one for itself"
    assert np.isfinite(scores.class_log_prob(z)).all()
    assert named(str(posterior.classifier.expression), posterior.classifier).label == 1


@pytest.mark.parametrize(
    ("label", "match"),
    [
        ("goldfsh", "label: expected a class name, .* got 'goldfsh'; did you mean goldfish"),
        (3, r"label: expected an integer in 0..2, got 3"),
        (True, "label: expected an integer"),
        (None, "label: expected an integer"),
        ([0, 3], r"label: expected an integer in 0..2, got 3"),
        ([0, "apple"], "label: expected a class name"),
        ([], "label: expected at least one label"),
        ([[0, 1]], "label: expected an integer"),
        (tf.constant([0, 3]), r"label: expected an integer in 0..2, got 3"),
        (
            tf.constant([[0, 1]]),
            r"label: expected an integer tensor, with one label or one per chain, got int32 of shape \(1, 2\)",
        ),
        (tf.constant(1.0), "label: expected an integer tensor"),
        (["goldfish & !orange", "orange"], "label: expected names and indices in a list of labels"),
        ("goldfish & !orange, orange", "label: expected one condition, or a list of names"),
    ],
)
def test_labels_that_are_none(label: Any, match: str) -> None:
    with pytest.raises(UserError, match=match):
        named(label)


def test_names_need_a_classifier_that_has_them() -> None:
    class Named(ToyClassifier):
        labels = ("cat", "dog")

    assert int(named("dog", Named()).label) == 1
    with pytest.raises(UserError, match=r"label: expected an index in 0\.\.1, because the classifier has no labels, got dog"):
        named("dog", ToyClassifier())
    with pytest.raises(UserError, match="classifier: expected one that supports the condition !cat, got Named"):
        named("!cat", Named())
    with pytest.raises(UserError, match="one class of a classifier with scores, got 2 classes"):
        named([0, 1], fruits(output="scores"))


def test_arguments_after_the_label_go_by_name() -> None:
    with pytest.raises(TypeError, match="positional"):
        ClassPosterior(ToyGenerator(), ToyClassifier(), 1, 2.0)  # type: ignore[misc]
    with pytest.raises(UserError, match="did you mean temperature"):
        make(temprature=2.0)


def test_its_name_is_shown_in_a_graph_too() -> None:
    shown = tf.function(lambda: tf.constant(repr(make())), autograph=False)().numpy().decode()
    assert shown.startswith("<tfgradgen.ClassPosterior '")


def test_the_plain_joint_distribution_has_no_labels_of_chains() -> None:
    vector, z = make(label=[0, 1, 1]), tf.zeros([5, 6])
    assert vector.distribution.sample(5, seed=[0, 1])["z"].shape == [5, 6]
    joint = vector.unpin("label").log_prob(z=z, label=tf.ones([5], tf.int32))
    np.testing.assert_allclose(joint, make().unnormalized_log_prob(z), rtol=1e-6)
