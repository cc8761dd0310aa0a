"""The class-conditional posterior over latent points, p(z | class) ∝ p(class | g(z)) ** (1 / temperature) Normal(z; 0, I)."""

from numbers import Integral
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfgradgen.core.backend import as_seed, fold_in
from tfgradgen.core.batching import by_parts
from tfgradgen.core.checks import check_int, check_real, did_you_mean, fail
from tfgradgen.core.contracts import ClassifierLike, GeneratorLike, Networks, Regularization

tfd = tfp.distributions

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


def _check_size(role: str, model: Any, name: str) -> None:
    """Raises `UserError` unless the attribute `name` of a model is a whole number of at least 1."""
    size = getattr(model, name, None)
    if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
        got = f"{name}={size}" if hasattr(model, name) else "none"
        raise fail(role, f"a {name}, an integer of at least 1", got, f"give the {role} a whole number as {name}")


class ClassPosterior:
    """A `tfp.distributions` joint over (z, label) with the label pinned.

    z ~ Normal(0, I) [latent_dim]; label | z ~ Categorical(logits=classifier(generator(z))). Every density takes
    `z [..., latent_dim]` and returns float32 [...], one value a chain, so that any TFP kernel can use it. Leading
    dimensions are flattened into one batch for the networks.

    Args:
      generator: z [B, latent_dim] -> image [B, height, width, channels] in [-1, 1]; has `latent_dim`.
      classifier: image -> logits [B, num_classes]; has `num_classes`. One of `load_classifier` whose image range nothing told
        is taken in the range that the generator's images tell (`classifier.for_generator`).
      label: class index, a Python int in 0..num_classes - 1 or a scalar int32 tensor (so that one compiled function
        serves every class).
      temperature: > 0; the likelihood enters as likelihood ** (1 / temperature).
      regularization: a further term of `unnormalized_log_prob`, which is then not the posterior's; None for none.
      discriminator: image -> log-odds d(g(z)) [B] that the image is natural; they enter the target as discriminator_weight * d,
        the energy of discriminator driven latent sampling (Che et al. 2020). None for none.
      discriminator_weight: >= 0.
      max_batch: rows that go through the networks at a time; None for all.
    """

    def __init__(
        self,
        generator: GeneratorLike,
        classifier: ClassifierLike,
        label: Any,
        temperature: Any = 1.0,
        regularization: Regularization | None = None,
        *,
        discriminator: Any = None,
        discriminator_weight: float = 0.0,
        max_batch: int | None = None,
        **unknown: Any,
    ):
        for name in unknown:
            remedy = did_you_mean(name, ARGUMENTS) or "leave it out"
            raise fail("ClassPosterior", "one of " + ", ".join(ARGUMENTS), name, remedy)
        _check_size("generator", generator, "latent_dim")
        _check_size("classifier", classifier, "num_classes")
        if not tf.is_tensor(label):
            label = check_int("label", label, 0, classifier.num_classes - 1)
        if not tf.is_tensor(temperature):
            temperature = check_real("temperature", temperature, 0.0)
        weight = check_real("discriminator_weight", discriminator_weight, 0.0, is_low_in=True)
        max_batch = None if max_batch is None else check_int("max_batch", max_batch, 1)
        for_generator = getattr(classifier, "for_generator", None)
        if for_generator:
            classifier = for_generator(generator)
        self.networks = Networks(generator, classifier, discriminator, weight, max_batch)
        self.generator, self.classifier = generator, classifier
        self.label = tf.convert_to_tensor(label, tf.int32)
        self.temperature = temperature
        self.regularization = regularization
        self.joint = tfd.JointDistributionNamed(
            {
                "z": tfd.MultivariateNormalDiag(tf.zeros([generator.latent_dim])),
                "label": lambda z: tfd.Categorical(logits=self.class_logits(z)),
            },
            name="class_and_latent",
        )

    @classmethod
    def of(
        cls, networks: Networks, label: Any, temperature: Any = 1.0, regularization: Regularization | None = None
    ) -> "ClassPosterior":
        """The posterior of `label` under `networks`."""
        generator, classifier, *_ = networks
        further = {name: value for name, value in networks._asdict().items() if name not in ("generator", "classifier")}
        return cls(generator, classifier, label, temperature, regularization, **further)

    @property
    def latent_dim(self) -> int:
        return self.generator.latent_dim

    @property
    def has_energy(self) -> bool:
        """Whether a discriminator takes part."""
        return self.networks.discriminator is not None and self.networks.discriminator_weight > 0

    def check_without_energy(self, method: str) -> None:
        """Raises `UserError` where a discriminator takes part: `method` needs a likelihood that is a probability."""
        if self.has_energy:
            remedy = "leave it out, or use a kernel such as mala"
            raise fail("discriminator_weight", f"no discriminator in the target of {method}", "one", remedy)

    def regularized(self, regularization: Regularization) -> "ClassPosterior":
        """The same with another term in `unnormalized_log_prob`."""
        return ClassPosterior.of(self.networks, self.label, self.temperature, regularization)

    def own_seed(self, seed: Any) -> tf.Tensor:
        """The stateless seed int32[2] of this label's runs, from that of a run, an integer or a seed: a stream for each label.

        Whatever draws from a posterior begins with it, so that runs of several labels with one seed share no random number,
        and a run of a label is the same whether other labels are run beside it or not. Classes go by their index, conditions,
        whose index is the same for all, by their text.
        """
        given = seed if tf.is_tensor(seed) else as_seed(seed)
        return fold_in(fold_in(given, getattr(self.classifier, "stream", 0)), self.label)

    @property
    def pinned(self) -> Any:
        """The joint with the label pinned, TFP's own object; at temperature 1 its unnormalized_log_prob is this one's."""
        return self.joint.experimental_pin(label=self.label)

    def class_logits(self, z: tf.Tensor) -> tf.Tensor:
        """Logits [..., num_classes] of the picture of each `z [..., latent_dim]`."""
        return self._look(z, with_energy=False)[0]

    def _look(self, z: tf.Tensor, with_energy: bool) -> tuple[tf.Tensor, Any]:
        """Logits [..., num_classes], and the discriminator's term [...] in nats, 0.0 without; one picture of each `z`."""
        z = self._check_z(z)
        flat = tf.reshape(z, [-1, self.latent_dim])
        num_classes, max_batch = self.classifier.num_classes, self.networks.max_batch

        def scores_of(rows: tf.Tensor) -> tf.Tensor:
            image = self.generator(rows)
            logits = self.classifier(image)
            if logits.shape.rank != 2 or logits.shape[1] != num_classes:
                raise fail(
                    "classifier", f"logits [batch, {num_classes}]", logits.shape, "return one row of logits for each picture"
                )
            return tf.concat([logits, self.networks.discriminator(image)[:, None]], 1) if with_energy else logits

        if max_batch is None or (flat.shape[0] is not None and flat.shape[0] <= max_batch):
            scores = scores_of(flat)
        else:
            scores = by_parts(scores_of, max_batch)(flat)
        scores = tf.reshape(scores, tf.concat([tf.shape(z)[:-1], tf.shape(scores)[1:]], 0))
        if not with_energy:
            return scores, 0.0
        return scores[..., :num_classes], self.networks.discriminator_weight * scores[..., num_classes]

    def class_log_prob(self, z: tf.Tensor) -> tf.Tensor:
        """log p(class | g(z)) [...] in nats, at temperature 1."""
        return self._check_batch(self._of_class(tf.nn.log_softmax(self.class_logits(z))), z)

    def likelihood_log_prob(self, z: tf.Tensor) -> tf.Tensor:
        """The tempered log-likelihood, log p(class | g(z)) / temperature [...], never above 0; with a discriminator also its
        term, which has no bound: all of the target but the prior and the regularization."""
        return self.class_and_likelihood_log_prob(z)[1]

    def class_and_likelihood_log_prob(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`class_log_prob` and `likelihood_log_prob`, from one image of each `z`."""
        logits, energy = self._look(z, self.has_energy)
        log_probs = tf.nn.log_softmax(logits)
        likelihood = self._tempered(log_probs) + energy
        return self._check_batch(self._of_class(log_probs), z), self._check_batch(likelihood, z)

    def prior_log_prob(self, z: tf.Tensor) -> tf.Tensor:
        """log Normal(z; 0, I) [...]."""
        z = self._check_z(z)
        return self._check_batch(self.joint.model["z"].log_prob(z), z)

    def unnormalized_log_prob(self, z: tf.Tensor) -> tf.Tensor:
        """prior_log_prob + likelihood_log_prob, and the regularization if there is one, [...]: the target of every kernel."""
        return self._outside_likelihood(z) + self.likelihood_log_prob(z)

    def objectives(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`unnormalized_log_prob` [...], and the same with the class's logit in place of its log-probability, in one pass."""
        logits, energy = self._look(z, self.has_energy)
        outside = self._outside_likelihood(z) + energy
        return outside + self._tempered(tf.nn.log_softmax(logits)), outside + self._tempered(logits)

    def class_prob_of(self, z: tf.Tensor, target_log_prob: tf.Tensor) -> tf.Tensor:
        """p(class | g(z)) [...] from a target density that was computed already, without the networks; with a discriminator,
        whose term cannot be told from the class's, by one more forward pass."""
        if self.has_energy:
            return tf.exp(self.class_log_prob(z))
        log_prob = (target_log_prob - self._outside_likelihood(z)) * self.temperature
        return tf.exp(tf.minimum(log_prob, 0.0))  # rounding can leave it an ulp of the density above 0

    def _outside_likelihood(self, z: tf.Tensor) -> tf.Tensor:
        if self.regularization is None:
            return self.prior_log_prob(z)
        weight, mean, scale = self.regularization
        return self.prior_log_prob(z) - 0.5 * weight * tf.reduce_sum(tf.square((z - mean) / scale), -1)

    def _of_class(self, of_each: tf.Tensor) -> tf.Tensor:
        return tf.gather(of_each, self.label, axis=-1)

    def _tempered(self, of_each: tf.Tensor) -> tf.Tensor:
        return self._of_class(of_each) / self.temperature

    def sample_prior(self, num: int, seed: tf.Tensor) -> tf.Tensor:
        """`num` latent points [num, latent_dim] ~ Normal(0, I) from a stateless `seed` int32[2]."""
        return tf.random.stateless_normal([num, self.latent_dim], seed)

    def _check_z(self, z: Any) -> tf.Tensor:
        z = tf.convert_to_tensor(z, tf.float32)
        if z.shape.rank == 0 or z.shape[-1] != self.latent_dim:
            raise fail("z", f"shape [..., {self.latent_dim}]", list(z.shape), "pass latent points of the generator")
        return z

    @staticmethod
    def _check_batch(density: tf.Tensor, z: Any) -> tf.Tensor:
        # A scalar density runs in TFP without complaint and accepts or rejects all chains together.
        expected = tf.convert_to_tensor(z).shape[:-1]
        if not density.shape.is_compatible_with(expected):
            raise fail("density", f"one value a chain, shape {expected}", density.shape, "keep the batch dimension")
        return density
