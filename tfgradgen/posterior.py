"""The class-conditional posterior over latent points, p(z | class) ∝ p(class | g(z)) ** (1 / temperature) Normal(z; 0, I)."""

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, cast

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfgradgen.core.backend import as_seed, fold_in
from tfgradgen.core.batching import map_batched
from tfgradgen.core.checks import check_int, check_real, check_type, did_you_mean, fail
from tfgradgen.core.config import RunConfig
from tfgradgen.core.contracts import ClassifierLike, GeneratorLike, Networks, Regularization
from tfgradgen.models.outputs import names_of_classes, outputs_of
from tfgradgen.models.posterior_arguments import (
    check_discriminator,
    check_label_tensor,
    check_regularization,
    check_size,
    checked_temperature,
    one_part,
)

Method = TypeVar("Method", bound=Callable[..., Any])
tfb, tfd = tfp.bijectors, tfp.distributions

ARGUMENTS = (
    "generator",
    "classifier",
    "label",
    "temperature",
    "regularization",
    "discriminator",
    "discriminator_weight",
    "max_batch",
)


def _density(fn: Method) -> Method:
    """Wrap a method of `z`: accept all forms of `z` that `ClassPosterior` documents, and compute in float32.

    The result is float32, or float64 for a float64 tensor, because a kernel in float64 adds it to float64 numbers.
    """

    @functools.wraps(fn)
    def of_any_form(self: "ClassPosterior", z: Any) -> Any:
        z = one_part(z)
        is_double = tf.is_tensor(z) and z.dtype == tf.float64
        found = fn(self, self._check_z(z))
        return tf.nest.map_structure(lambda value: tf.cast(value, tf.float64), found) if is_double else found

    return cast(Method, of_any_form)


class ClassPosterior(tfp.experimental.distributions.JointDistributionPinned):  # type: ignore[misc]
    """The joint distribution of (z, label) with the label pinned, a `JointDistributionPinned` of TFP.

    z ~ Normal(0, I) [latent_dim]; label | z ~ Categorical(logits=classifier(generator(z))). Every density takes
    `z [..., latent_dim]`, by position, as `z=z` or as {"z": z}, and returns one value per chain, float32 [...], so that any TFP
    kernel can use it. Leading dimensions are flattened into one batch for the networks.

    `unnormalized_log_prob`, `log_prob`, their parts and `log_weight` belong to the target that is sampled, with its
    temperature, discriminator and regularization. `distribution`, `unpin` and `experimental_pin` return TFP's own objects for
    the plain joint distribution, at temperature 1 and without further terms.

    Args:
      generator: z [B, latent_dim] -> image [B, height, width, channels] in [-1, 1]; has `latent_dim`.
      classifier: image -> logits [B, num_classes]; has `num_classes`, and `labels` if labels are given by name. If a classifier
        from `load_classifier` has an unknown image range, the generator's images decide it (`classifier.for_generator`).
      label: A class index in 0..num_classes - 1, a name, a WordNet id, a condition such as "goldfish & !orange", or a scalar
        int32 tensor (so that one compiled function serves every class). A list, array or tensor of labels [num_chains] gives
        each chain its own; `batch_shape` is then [num_chains], which the last batch dimension of `z` must match.
      temperature: > 0; the likelihood enters as likelihood ** (1 / temperature).
      regularization: A further term of `unnormalized_log_prob`, which is then not the posterior; None for none. It is for
        kernels of TFP: `tfgradgen.sample` makes its own from the setting `class_reg`, and refuses another.
      discriminator: image -> log-odds d(g(z)) [B] that the image is natural; None for none. They enter the target as
        discriminator_weight * d, the energy of discriminator driven latent sampling (Che et al. 2020).
      discriminator_weight: > 0 with a discriminator, else 0.
      max_batch: Rows that go through the networks at a time; None for all.

    Raises:
      UserError: An argument is out of range or unknown, or the classifier does not have the label.
    """

    allow_nan_stats = False
    use_vectorized_map = False
    validate_args = False

    # TFP's constructor is not called: it evaluates the networks to find shapes and types, which are known here.
    def __init__(
        self,
        generator: GeneratorLike,
        classifier: ClassifierLike,
        label: Any,
        *,
        temperature: Any = 1.0,
        regularization: Regularization | None = None,
        discriminator: Any = None,
        discriminator_weight: float = 0.0,
        max_batch: int | None = None,
        **unknown: NoReturn,
    ):
        for name in unknown:
            remedy = did_you_mean(name, ARGUMENTS) or "leave it out"
            raise fail("ClassPosterior", "one of " + ", ".join(ARGUMENTS), name, remedy)
        check_size("generator", generator, "latent_dim")
        check_size("classifier", classifier, "num_classes")
        given = (generator, classifier, label, temperature, regularization, discriminator, discriminator_weight, max_batch)
        self._parameters = dict(zip(ARGUMENTS, given, strict=True))
        if tf.is_tensor(label):
            check_label_tensor(label, classifier.num_classes)
        else:
            classifier, label = outputs_of(classifier, label)
        temperature = checked_temperature(temperature)
        check_regularization(regularization, generator.latent_dim)
        weight = check_real("discriminator_weight", discriminator_weight, 0.0, inclusive_low=True)
        check_discriminator(discriminator, weight)
        max_batch = None if max_batch is None else check_int("max_batch", max_batch, 1)
        for_generator = getattr(classifier, "for_generator", None)
        if for_generator:
            classifier = for_generator(generator)
        self.networks = Networks(generator, classifier, discriminator, weight, max_batch)
        self.generator, self.classifier = generator, classifier
        self.label = tf.cast(label, tf.int32) if tf.is_tensor(label) else tf.constant(label, tf.int32)
        self.temperature = temperature
        self.regularization = regularization

    @classmethod
    def of(
        cls, networks: Networks, label: Any, temperature: Any = 1.0, regularization: Regularization | None = None
    ) -> "ClassPosterior":
        """Return the posterior of `label` under `networks`."""
        generator, classifier, *_ = networks
        further = {name: value for name, value in networks._asdict().items() if name not in ("generator", "classifier")}
        return cls(generator, classifier, label, temperature=temperature, regularization=regularization, **further)

    @property
    def parameters(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return dict(self._parameters)

    def copy(self, **changes: Any) -> "ClassPosterior":
        """Return a posterior with some arguments changed, for example `posterior.copy(label="orange")`."""
        return type(self)(**self._parameters | changes)

    def __copy__(self) -> "ClassPosterior":
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> "ClassPosterior":
        """Return a new posterior with the same models, which this class never changes."""
        return self.copy()

    def __reduce__(self) -> Any:
        remedy = "pickle the paths of its models, or the result of `sample`"
        raise fail("ClassPosterior", "an object that can be pickled", "a posterior, which holds TensorFlow models", remedy)

    @functools.cached_property
    def prior(self) -> Any:
        """The prior of z, Normal(0, I), as a distribution of TFP."""
        with tf.init_scope():  # it outlives the graph that may ask for it first
            return tfd.MultivariateNormalDiag(tf.zeros([self.generator.latent_dim]))

    @functools.cached_property
    def distribution(self) -> Any:
        """The plain joint distribution of z and label, at temperature 1 and without discriminator or regularization."""
        plain = ClassPosterior.of(self.networks, 0)  # one label, so that z may have any batch shape

        def label(z: tf.Tensor) -> Any:
            return tfd.Categorical(logits=plain.class_logits(z))

        return tfd.JointDistributionNamed(OrderedDict(z=self.prior, label=label), name="class_and_latent")

    @property
    def name(self) -> str:
        return "class_posterior"

    @property
    def pins(self) -> dict[str, tf.Tensor]:
        return {"label": self.label}

    @property
    def dtype(self) -> Any:
        return OrderedDict(z=tf.float32)

    @property
    def event_shape(self) -> Any:
        return OrderedDict(z=tf.TensorShape([self.latent_dim]))

    def event_shape_tensor(self) -> Any:
        return OrderedDict(z=tf.constant([self.latent_dim]))

    @property
    def batch_shape(self) -> tf.TensorShape:
        """[] for one label, [num_chains] for a vector of labels."""
        return self.label.shape

    def batch_shape_tensor(self) -> tf.Tensor:
        return tf.shape(self.label)

    @property
    def reparameterization_type(self) -> Any:
        return OrderedDict(z=tfd.FULLY_REPARAMETERIZED)

    @property
    def experimental_shard_axis_names(self) -> Any:
        return OrderedDict(z=[])

    def experimental_default_event_space_bijector(self) -> Any:
        """Return the identity: z is unconstrained."""
        return tfb.JointMap(OrderedDict(z=tfb.Identity()))

    def __repr__(self) -> str:
        shapes = f"batch_shape={list(self.batch_shape)} event_shape={{'z': [{self.latent_dim}]}} dtype={{'z': float32}}"
        label = ",".join(self.label_names) if hasattr(self.label, "numpy") else self.label.name
        return f"<tfgradgen.ClassPosterior {label!r} temperature={self.temperature} {shapes}>"

    __str__ = __repr__

    @property
    def label_names(self) -> list[str]:
        """The names of the labels, one per chain for a vector; indices if the classifier has no names."""
        names = names_of_classes(self.classifier)
        return [names[k] for k in np.atleast_1d(self.label.numpy())]

    @property
    def latent_dim(self) -> int:
        return self.generator.latent_dim

    @property
    def has_energy(self) -> bool:
        """Whether the target has a discriminator term."""
        return self.networks.discriminator is not None

    def check_without_energy(self, method: str) -> None:
        """Raise `UserError` if the target has a discriminator term: `method` needs a likelihood that is a probability."""
        if self.has_energy:
            remedy = "leave it out, or use a kernel such as mala"
            raise fail("discriminator_weight", f"a target without discriminator for {method}", "one with it", remedy)

    def check_without_regularization(self) -> None:
        """Raise `UserError` if the target has a regularization, which only kernels of TFP take as it is."""
        if self.regularization is not None:
            remedy = "leave it out and give class_reg to a kernel such as mala, or use a kernel of TFP"
            raise fail("regularization", "none, because sampling would leave it out", "one", remedy)

    def check_run(self, run: RunConfig) -> None:
        """Raise `UserError` if `run` has another temperature than this posterior; its default stands for any."""
        check_type("run", run, RunConfig)
        if tf.is_tensor(self.temperature) and not (hasattr(self.temperature, "numpy") and self.temperature.shape == ()):
            return  # sampling refuses it with its own reason
        temperature = float(self.temperature)
        # A tensor holds the number rounded to float32.
        if run.temperature not in (RunConfig.temperature, temperature) and np.float32(run.temperature) != temperature:
            remedy = f"give RunConfig(temperature={temperature:g}), or the posterior another"
            raise fail("temperature", f"{temperature:g}, which the posterior has", run.temperature, remedy)

    def regularized(self, regularization: Regularization) -> "ClassPosterior":
        """Return this posterior with `regularization` in `unnormalized_log_prob`."""
        return ClassPosterior.of(self.networks, self.label, self.temperature, regularization)

    def own_seed(self, seed: Any) -> tf.Tensor:
        """Return a stateless seed int32[2] that depends on `seed` (an integer or a stateless seed) and on the label.

        All sampling from a posterior starts from this seed, so that runs of several labels with one seed share no random
        numbers, and a run does not depend on the labels that run before it. The seed depends on the index of a class, or on the
        text of a condition. A vector of labels has one seed for the whole batch, so the noise of a label's chains differs from
        that in a run of the label alone.
        """
        given = seed if tf.is_tensor(seed) else as_seed(seed)
        begun = fold_in(given, getattr(self.classifier, "stream", 0))
        if not self.is_batched:
            return fold_in(begun, self.label)
        # A random linear function of the labels: two vectors collide with probability of about 2 ** -64.
        factors = tf.random.stateless_uniform([self.batch_shape_tensor()[0], 2], fold_in(begun, -1), None, None, tf.int32)
        return begun + tf.reduce_sum(factors * self.label[:, None], 0)

    @property
    def is_batched(self) -> bool:
        """Whether the label is a vector, with one label per chain."""
        return bool(self.label.shape.rank == 1)

    def check_one_label(self, method: str) -> None:
        """Raise `UserError` if the label is a vector: `method` needs one label."""
        if self.is_batched:
            got = f"a vector of {self.label.shape[0]} labels"
            raise fail("label", f"one label for {method}", got, "run it for each label, or use a kernel such as mala")

    def check_num_chains(self, num_chains: int) -> None:
        """Raise `UserError` if the label is a vector of another length than `num_chains`."""
        if self.is_batched and self.label.shape[0] != num_chains:
            count = self.label.shape[0]
            raise fail("label", f"{num_chains} labels, one per chain", f"{count} labels", f"give RunConfig(num_chains={count})")

    def each_label(self) -> list[tuple["ClassPosterior", Any]]:
        """Return the posterior of each distinct label with the indices of its chains, int [...]; a slice for one label."""
        if not self.is_batched:
            return [(self, slice(None))]
        if not hasattr(self.label, "numpy"):
            raise fail("label", "labels with known values", "a symbolic tensor", "call this outside of tf.function")
        labels, parts = self.label.numpy(), []
        for label in dict.fromkeys(labels.tolist()):
            chains, regularization = np.flatnonzero(labels == label), self.regularization
            if regularization is not None:
                weight, *moments = regularization
                rows = (np.broadcast_to(row, [len(labels), self.latent_dim])[chains[0]] for row in moments)
                regularization = Regularization(weight, *rows)
            parts.append((ClassPosterior.of(self.networks, label, self.temperature, regularization), chains))
        return parts

    @_density
    def class_logits(self, z: Any) -> tf.Tensor:
        """Return the logits [..., num_classes] of the image of each `z [..., latent_dim]`."""
        return self._logits_and_energy(z, with_energy=False)[0]

    def _logits_and_energy(self, z: tf.Tensor, with_energy: bool) -> tuple[tf.Tensor, Any]:
        """Return logits [..., num_classes] and the discriminator term [...] in nats (or 0.0), from one image per `z`."""
        flat = tf.reshape(z, [-1, self.latent_dim])
        num_classes, max_batch = self.classifier.num_classes, self.networks.max_batch

        def scores_of(rows: tf.Tensor) -> tf.Tensor:
            image = self.generator(rows)
            logits = self.classifier(image)
            if logits.shape.rank != 2 or logits.shape[1] != num_classes:
                raise fail(
                    "classifier",
                    f"logits [batch, {num_classes}]",
                    logits.shape,
                    "return one row of logits for each row of the input",
                )
            if not with_energy:
                return logits
            log_odds = self.networks.discriminator(image)
            if log_odds.shape.rank != 1:
                raise fail("discriminator", "log-odds [batch]", log_odds.shape, "return one value for each image")
            return tf.concat([logits, log_odds[:, None]], 1)

        if max_batch is None or (flat.shape[0] is not None and flat.shape[0] <= max_batch):
            scores = scores_of(flat)
        else:
            scores = map_batched(scores_of, max_batch)(flat)
        scores = tf.reshape(scores, tf.concat([tf.shape(z)[:-1], tf.shape(scores)[1:]], 0))
        if not with_energy:
            return scores, 0.0
        return scores[..., :num_classes], self.networks.discriminator_weight * scores[..., num_classes]

    @_density
    def class_log_prob(self, z: Any) -> tf.Tensor:
        """Return log p(class | g(z)) [...] in nats, at temperature 1."""
        return self._check_batch(self._of_class(tf.nn.log_softmax(self.class_logits(z))), z)

    @_density
    def likelihood_log_prob(self, z: Any) -> tf.Tensor:
        """Return the tempered log-likelihood, log p(class | g(z)) / temperature [...] <= 0, plus the discriminator term.

        The discriminator term is unbounded. The target is this plus the prior and the regularization.
        """
        return self.class_and_likelihood_log_prob(z)[1]

    @_density
    def class_and_likelihood_log_prob(self, z: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Return `class_log_prob` and `likelihood_log_prob`, from one image per `z`."""
        logits, energy = self._logits_and_energy(z, self.has_energy)
        log_probs = tf.nn.log_softmax(logits)
        likelihood = self._tempered(log_probs) + energy
        return self._check_batch(self._of_class(log_probs), z), self._check_batch(likelihood, z)

    @property
    def asked(self) -> tuple[Any, ...]:
        """The classifiers that give plain classes: its own, or those of a condition."""
        return getattr(self.classifier, "asked", (self.classifier,))

    def likelihood_of(self, log_probs: tf.Tensor) -> tf.Tensor:
        """Return the tempered log-likelihood [B], without a discriminator's term, from log-probabilities; no network is called.

        Args:
          log_probs: [B, sum of num_classes], all classes of each classifier in `asked`. A model may have estimated them: they
            need not be normalized.
        """
        parts = tf.split(log_probs, [each.num_classes for each in self.asked], -1)
        exclusive = [getattr(each, "is_exclusive", True) for each in self.asked]
        parts = [tf.nn.log_softmax(p) if one else tf.minimum(p, 0.0) for p, one in zip(parts, exclusive, strict=True)]
        condition = getattr(self.classifier, "of_log_probs", None)
        return self._tempered(tf.nn.log_softmax(condition(parts) if condition else parts[0]))

    @_density
    def prior_log_prob(self, z: Any) -> tf.Tensor:
        """Return log Normal(z; 0, I) [...]: the bits of `prior.log_prob`, which takes 70 operations for it."""
        return tf.reduce_sum(-0.5 * tf.square(z) - float(0.5 * np.log(2.0 * np.pi)), -1)

    @_density
    def unnormalized_log_prob(self, z: Any) -> tf.Tensor:
        """Return the target of every kernel [...]: prior_log_prob + likelihood_log_prob + regularization."""
        return self._outside_likelihood(z) + self.likelihood_log_prob(z)

    def log_prob(self, z: Any) -> tf.Tensor:
        """Return `unnormalized_log_prob`, as all pinned distributions of TFP do."""
        return self.unnormalized_log_prob(z)

    def unnormalized_log_prob_parts(self, z: Any) -> Any:
        """Return the terms of `unnormalized_log_prob`: `unpinned`, the prior of z; `pinned`, the sum of all others."""
        prior, likelihood = self.prior_log_prob(z), self.likelihood_log_prob(z)
        if self.regularization is not None:
            likelihood += self._outside_likelihood(z) - prior
        parts = tfp.experimental.distributions.joint_distribution_pinned.UnnormalizedLogProbParts
        return parts(pinned=OrderedDict(label=likelihood), unpinned=OrderedDict(z=prior))

    def log_prob_parts(self, z: Any) -> Any:
        """Return `unnormalized_log_prob_parts`."""
        return self.unnormalized_log_prob_parts(z)

    def log_weight(self, z: Any) -> tf.Tensor:
        """Return the log importance weight [...] of a prior draw (`sample_unpinned`): log of target over prior density."""
        return self.unnormalized_log_prob_parts(z).pinned["label"]

    def sample_unpinned(self, sample_shape: Any = (), seed: Any = None) -> Any:
        """Return prior draws {"z": [*sample_shape, *batch_shape, latent_dim]}, without evaluating the networks."""
        shape = tf.concat([tf.reshape(tf.cast(sample_shape, tf.int32), [-1]), self.batch_shape_tensor()], 0)
        return OrderedDict(z=self.prior.sample(shape, seed=seed))

    @_density
    def objectives(self, z: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Return `unnormalized_log_prob` [...], and the same with the class logit instead of the log-probability."""
        logits, energy = self._logits_and_energy(z, self.has_energy)
        outside = self._outside_likelihood(z) + energy
        return outside + self._tempered(tf.nn.log_softmax(logits)), outside + self._tempered(logits)

    def class_prob_of(self, z: tf.Tensor, target_log_prob: tf.Tensor) -> tf.Tensor:
        """Return p(class | g(z)) [...] from a known target density, without evaluating the networks.

        A discriminator term cannot be separated from the likelihood, so with one this takes another forward pass.
        """
        if self.has_energy:
            return tf.exp(self.class_log_prob(z))
        log_prob = (target_log_prob - self._outside_likelihood(z)) * self.temperature
        return tf.exp(tf.minimum(log_prob, 0.0))  # rounding of the density can leave it above 0

    def _outside_likelihood(self, z: tf.Tensor) -> tf.Tensor:
        if self.regularization is None:
            return self.prior_log_prob(z)
        weight, mean, scale = self.regularization
        return self.prior_log_prob(z) - 0.5 * weight * tf.reduce_sum(tf.square((z - mean) / scale), -1)

    def _of_class(self, of_each: tf.Tensor) -> tf.Tensor:
        if not self.is_batched:
            return tf.gather(of_each, self.label, axis=-1)
        # A mask rather than a product: the other classes may hold infinities.
        is_own = tf.one_hot(self.label, of_each.shape[-1], True, False)
        return tf.reduce_sum(tf.where(is_own, of_each, 0.0), -1)

    def _tempered(self, of_each: tf.Tensor) -> tf.Tensor:
        return self._of_class(of_each) / self.temperature

    def sample_prior(self, num: int, seed: tf.Tensor) -> tf.Tensor:
        """Return latent points [num, latent_dim] ~ Normal(0, I) from a stateless `seed` int32[2]."""
        return tf.random.stateless_normal([num, self.latent_dim], seed)

    def _check_z(self, z: Any) -> tf.Tensor:
        shown = z.dtype.name if tf.is_tensor(z) else type(z).__name__
        try:
            z = tf.cast(z, tf.float32) if tf.is_tensor(z) and z.dtype.is_floating else tf.convert_to_tensor(z, tf.float32)
        except (TypeError, ValueError) as error:
            raise fail("z", f"floating-point numbers [..., {self.latent_dim}]", shown, "pass latent points") from error
        if z.shape.rank == 0 or z.shape[-1] != self.latent_dim:
            raise fail("z", f"shape [..., {self.latent_dim}]", str(z.shape), "pass latent points of the generator")
        self._batch_of(z)
        return self._of_as_many(z) if self.is_batched and self.label.shape[0] is None and z.shape.rank > 1 else z

    def _of_as_many(self, z: tf.Tensor) -> tf.Tensor:
        """Check at run time that `z` has one row per label; otherwise one label would broadcast to all chains."""
        count = tf.shape(self.label)[0]
        message = "z: expected one row per label; pass one latent point for each chain"
        with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(z)[-2], count, message)]):
            # XLA drops assertions, but knows the shapes when it compiles; then this call fails.
            return tf.broadcast_to(z, tf.concat([tf.shape(z)[:-2], [count, self.latent_dim]], 0))

    def _batch_of(self, z: tf.Tensor) -> tf.TensorShape:
        """Return the batch shape of a density at `z`; raise `UserError` if `z` and the labels differ in number of chains."""
        count = self.label.shape[0] if self.is_batched else None
        if count is not None and z.shape.rank > 1 and z.shape[-2] not in (None, count):
            shape = f"shape [..., {count}, {self.latent_dim}], one row for each of {count} labels"
            raise fail("z", shape, list(z.shape), "pass one latent point for each chain")
        return tf.broadcast_static_shape(z.shape[:-1], self.batch_shape)

    def _check_batch(self, density: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
        # With a scalar density TFP would accept or reject all chains together, without an error.
        expected = self._batch_of(z)
        if not density.shape.is_compatible_with(expected):
            raise fail("density", f"one value per chain, shape {expected}", density.shape, "keep the batch dimension")
        return density
