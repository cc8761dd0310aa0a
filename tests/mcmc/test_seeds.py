"""Random numbers are uniform down to the size of small likelihoods, and each label has its own stream."""

import functools
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tests.support.toy import ToyClassifier, ToyGenerator
from tfgradgen.cli.commands import main
from tfgradgen.core.backend import Stream, as_seed, fold_in, log_uniform
from tfgradgen.core.checks import UserError
from tfgradgen.core.config import RunConfig, Schedule
from tfgradgen.core.contracts import collect
from tfgradgen.mcmc import pool, rejection
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.posterior import ClassPosterior

pytestmark = pytest.mark.usefixtures("quick_runs")

NUM_BATCHES, BATCH = 8, 2**22
FIRST_LOGIT, SEED = -0.4966, 2  # the rare class then begins just below a multiple of 2^-23 that equals a number of this seed


def float32_log_uniform(shape: list[int], seed: tf.Tensor) -> tf.Tensor:
    """Return numbers that must not decide an acceptance."""
    return tf.math.log(tf.random.stateless_uniform(shape, seed))


@functools.cache
def tail(log_uniform_fn) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Return log2 of the numbers below 2^-16 among NUM_BATCHES * BATCH = 2^25 numbers."""
    parts = [log_uniform_fn([BATCH], fold_in(as_seed(5), k)).numpy() for k in range(NUM_BATCHES)]
    return np.concatenate([part[part < -16 * np.log(2)] / np.log(2) for part in parts])


def tail_p_value(values: np.ndarray) -> float:
    """Return the chi-squared p-value of the counts in half octaves from 2^-16 to 2^-22, below which 8 numbers are expected."""
    edges = -np.arange(16, 22.1, 0.5)
    expected = [*(2.0**25 * (2.0 ** edges[:-1] - 2.0 ** edges[1:])), 2.0**25 * 2.0 ** edges[-1]]
    found = [*(((values < high) & (values >= low)).sum() for high, low in pairwise(edges))]
    found.append((values < edges[-1]).sum())
    return float(stats.chi2.sf(((np.array(found) - expected) ** 2 / expected).sum(), len(expected)))


@pytest.mark.slow
def test_uniform_numbers_are_uniform_in_the_far_tail_and_never_zero() -> None:
    values = tail(log_uniform)
    assert np.isfinite(values).all()
    assert values.min() < -23, "at least one of 2^25 numbers is below 2^-23, except in one case of 55"
    assert tail_p_value(values) > 1e-3


@pytest.mark.slow
def test_float32_numbers_fail_the_same_test() -> None:
    values = tail(float32_log_uniform)
    assert np.isneginf(values).any()
    assert len(np.unique(values)) <= 128 < len(np.unique(tail(log_uniform))), "multiples of 2^-23 below 2^-16"


class OneNumber:
    """A generator that returns z [B, 1] as an image of one pixel."""

    latent_dim = 1

    def __call__(self, z: tf.Tensor) -> tf.Tensor:
        return z[:, None, None]


class Hopeless:
    """p(class 1) = 6e-10 everywhere."""

    num_classes = 3

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        return image[:, 0, 0] * 0.0 + tf.constant([FIRST_LOGIT, float(np.log(1e-9)), 0.0])


@pytest.fixture
def big_chunks(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for module in (pool, rejection):
        monkeypatch.setattr(module, "CHUNK", BATCH)
    monkeypatch.setattr(pool, "ROWS", BATCH)  # in one pass
    monkeypatch.setattr(rejection, "MAX_FRUITLESS_DRAWS", BATCH)
    return monkeypatch


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # about a class that is out of reach, which this test needs
def test_rejection_accepts_no_likelihood_of_a_billionth(big_chunks: pytest.MonkeyPatch) -> None:
    """Of 2^22 prior draws, 0.003 are expected to be accepted."""
    posterior, run = ClassPosterior(OneNumber(), Hopeless(), 1), RunConfig(num_chains=1, seed=SEED)
    with pytest.raises(UserError, match=f"none accepted in {BATCH} prior draws"):
        rejection.sample_exact(posterior, 1, run)

    def float32_numbers(seed: tf.Tensor) -> np.ndarray:
        numbers = tf.random.stateless_uniform([BATCH], seed, dtype=tf.float64).numpy()
        return np.floor(numbers * 2**23) / 2**23

    big_chunks.setattr(pool, "uniform_numbers", float32_numbers)
    draws, *_ = rejection.sample_exact(posterior, 1, run)
    assert draws.class_prob.max() < 1.1e-9


def test_a_folded_seed_keeps_all_64_bits_of_its_history() -> None:
    """Both words depend on what was folded in before.

    With TensorFlow's own function, the second is the last number folded in.
    """
    seeds = np.array([fold_in(fold_in(as_seed(1), k), 0) for k in range(200)])
    assert all(len(np.unique(word)) == 200 for word in seeds.T)
    assert len(np.unique([fold_in(as_seed(1), k) for k in range(200)], axis=0)) == 200


GENERATOR, CLASSIFIER = ToyGenerator(), ToyClassifier()  # the same in all tests, which so share compiled graphs


def make(label: int | list[int]) -> ClassPosterior:
    return ClassPosterior(GENERATOR, CLASSIFIER, label)


def all_z(folder: Path) -> np.ndarray:
    with np.load(folder / "samples.npz") as samples:
        return samples["z"].reshape(-1, 6)


@pytest.mark.slow
def test_the_streams_of_a_run_are_those_of_earlier_runs() -> None:
    values = {
        "STARTS": 0,
        "CHAINS": 1,
        "REJECTION": 2,
        "SMC": 3,
        "PRIOR": 5,
        "POOL": 6,
        "SURROGATE": 7,
        "HVI": 8,
        "ANNEALING": 9,
        "PROJECTION": 10,
        "JITTER": -1,
    }
    assert {stream.name: stream.value for stream in Stream} == values
    folded = {tuple(fold_in(as_seed(3), stream).numpy().tolist()) for stream in Stream}
    assert folded == {tuple(fold_in(as_seed(3), value).numpy().tolist()) for value in values.values()}
    assert len(folded) == len(values)


def test_classes_of_one_command_share_no_draw_and_each_is_as_it_is_alone(toy_flags: list[str]) -> None:
    flags = ["--kernel=rejection", "--num_results=20", *toy_flags]
    labels = ("goldfish", "king_penguin", "alp")
    main(["sample", "--label=all", "--out=all", *flags])
    together = np.concatenate([all_z(Path("all") / label) for label in labels])
    assert len(np.unique(together, axis=0)) == len(together) == 3 * 20 * 16
    main(["sample", "--label=alp", "--out=alone", *flags])
    np.testing.assert_array_equal(all_z(Path("alone")), all_z(Path("all/alp")))
    main(["sample", "--label=alp", "--out=other", "--seed=1", *flags])
    assert not np.intersect1d(all_z(Path("other")), together).size, "another seed is another pool"


@pytest.mark.parametrize("name", ["rejection", "smc", "mala"])
def test_no_method_draws_the_same_for_two_labels(name: str) -> None:
    """If neither prior draws nor noise are shared, coordinates that do not influence the class differ."""
    method, run = SAMPLERS[name], RunConfig(num_chains=4, seed=2)
    z = []
    for label in (0, 1):
        schedule = Schedule(8, 0, 0)
        z.append(collect(method.chunks_fn(make(label), method.defaults, schedule, run, None)).draws.z[..., 5].ravel())
    assert not np.intersect1d(*z).size


def test_in_a_batch_no_two_chains_draw_the_same() -> None:
    """This holds for chains of two labels, and for a label in a batch and by itself, although these share their starts."""
    method, schedule, run = SAMPLERS["mala"], Schedule(8, 0, 0), RunConfig(num_chains=4, seed=2)
    batch = collect(method.chunks_fn(make([0, 0, 1, 1]), method.defaults, schedule, run, None)).draws
    alone = collect(method.chunks_fn(make(0), method.defaults, schedule, run, None)).draws
    moved = np.concatenate([draws.z[draws.is_accepted][:, 5] for draws in (batch, alone)])
    assert len(np.unique(moved)) == len(moved) > 8
