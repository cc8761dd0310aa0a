"""morph: a path on spheres between two draws that keeps the class."""

import numpy as np
import pytest
import tensorflow as tf

import tfgradgen as tg
from tests.support import toy
from tfgradgen.core.checks import UserError
from tfgradgen.play.morph import great_circle, lift, morph


class OnARing(toy.ToyClassifier):
    """A classifier whose p(class 1) is near 1 where the second pixel is near 1, and falls to 0 away from it."""

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        value = 3.0 - 8.0 * tf.square(image[:, 0, 1, 0] - 1.0)
        return tf.stack([tf.zeros_like(value), value], -1)


POSTERIOR = tg.ClassPosterior(toy.ToyGenerator(), OnARing(), 1)
FIRST, LAST = np.float32([2.0, 1, 0.3, 0, 0.5, 0.1]), np.float32([-1.5, 1, 0.2, 0.4, 0, 0.1])


@pytest.fixture(scope="module")
def run() -> tg.SampleResult:
    """Return a run whose chains 0 and 2 end at points of the class; the great circle between them leaves the class."""
    result = tg.sample(POSTERIOR, "rejection", num_results=2, num_chains=3)
    z = result.z.copy()
    z[-1, 0], z[-1, 2] = FIRST, LAST
    result.draws = result.draws._replace(z=z)
    return result


def probs(z: np.ndarray) -> np.ndarray:
    return np.exp(POSTERIOR.class_log_prob(z).numpy())


def test_the_path_without_steps_is_the_great_circle(run: tg.SampleResult) -> None:
    clip = morph(run, 0, 2, frames=9, num_steps=0, posterior=POSTERIOR)
    np.testing.assert_array_equal(clip.z, great_circle(FIRST, LAST, 9))
    norms = np.linalg.norm(clip.z, axis=1)
    np.testing.assert_allclose(norms, np.linspace(norms[0], norms[-1], 9), rtol=1e-5)
    unit = clip.z / norms[:, None]
    angles = np.arccos((unit[1:] * unit[:-1]).sum(1))
    np.testing.assert_allclose(angles, angles.mean(), rtol=1e-3)
    assert np.linalg.matrix_rank(unit, tol=1e-4) == 2, "in one plane"


def test_on_the_way_the_class_holds_as_at_the_ends(run: tg.SampleResult) -> None:
    plain = great_circle(FIRST, LAST, 25)
    assert probs(plain).min() < 0.1 < 0.9 < min(probs(plain[[0, -1]])), "or there would be nothing to do"
    clip = morph(run, 0, 2, frames=25, posterior=POSTERIOR)
    assert clip.class_prob.min() > 0.8
    np.testing.assert_allclose(clip.class_prob, probs(clip.z), atol=1e-5)
    np.testing.assert_array_equal(clip.z[[0, -1]], [FIRST, LAST], "the ends are the two draws, to the bit")
    np.testing.assert_allclose(np.linalg.norm(clip.z, axis=1), np.linalg.norm(plain, axis=1), rtol=1e-5)
    steps = np.linalg.norm(np.diff(clip.z, axis=0), axis=1)
    assert steps.max() < 3 * np.linalg.norm(np.diff(plain, axis=0), axis=1).max(), "and there is no jump"
    record = clip.record
    assert (record["least_class_prob"], record["least_class_prob_of_great_circle"]) == (
        pytest.approx(clip.class_prob.min()),
        pytest.approx(probs(plain).min(), rel=1e-4),
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_least_p_is_never_below_that_of_the_great_circle(seed: int) -> None:
    first, last = np.random.default_rng(seed).normal(size=(2, 6)).astype(np.float32)
    plain = great_circle(first, last, 12)
    for num_steps in (1, 3, 20):
        found = lift(POSTERIOR, plain, num_steps)
        assert probs(found.z).min() >= probs(plain).min() * (1 - 1e-5)


def test_where_p_is_not_a_number_a_point_stays() -> None:
    class Holed(OnARing):
        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            return tf.where(image[:, 0, 0, 0, None] > 1.0, np.nan, super().__call__(image))

    plain = great_circle(np.float32([2, 1, 0, 0, 0, 0]), LAST, 12)
    found = lift(tg.ClassPosterior(toy.ToyGenerator(), Holed(), 1), plain, 8)
    assert np.isfinite(found.z).all()
    np.testing.assert_array_equal(found.z[0], plain[0])


def test_directions_that_are_one_or_opposite_or_none() -> None:
    np.testing.assert_allclose(great_circle(FIRST, 2 * FIRST, 3), np.outer([1, 1.5, 2], FIRST), rtol=1e-5)
    np.testing.assert_allclose(great_circle(0 * FIRST, FIRST, 3), np.outer([0, 0.5, 1], FIRST), rtol=1e-6)
    with pytest.raises(UserError, match="not opposite to one another"):
        great_circle(FIRST, -FIRST, 5)


def test_a_later_run_of_the_process_has_the_same_bits(run: tg.SampleResult) -> None:
    """Gradients of a path are compiled like those of chains, because film compares a run that is drawn again bit by bit."""
    first = tg.sample(POSTERIOR, "mala", num_results=6, num_burnin_steps=2, num_chains=3)
    morph(run, 0, 2, frames=4, num_steps=2, posterior=POSTERIOR)
    again = tg.sample(POSTERIOR.copy(), "mala", num_results=6, num_burnin_steps=2, num_chains=3)
    np.testing.assert_array_equal(first.z, again.z)


@pytest.mark.parametrize(
    ("chains", "given", "words"),
    [
        ((0, 3), {}, "last: expected an integer in 0..2, got 3"),
        ((1, 1), {}, "last: expected another chain than the first, got 1"),
        ((0, 1), {"frames": 1}, "frames: expected an integer in 2..2000, got 1"),
        ((0, 1), {"num_steps": -1}, "num_steps: expected an integer in 0..1000"),
    ],
)
def test_wrong_arguments_are_refused(chains: tuple[int, int], given: dict[str, int], words: str, run: tg.SampleResult) -> None:
    with pytest.raises(UserError) as error:
        morph(run, *chains, posterior=POSTERIOR, **given)
    assert words in str(error.value)


def test_chains_of_two_classes_have_no_path() -> None:
    posterior = POSTERIOR.copy(label=[0, 1])
    result = tg.sample(posterior, "mala", num_results=2, num_burnin_steps=1, num_chains=2)
    with pytest.raises(UserError, match="a chain of the same class"):
        morph(result, 0, 1, posterior=posterior)
