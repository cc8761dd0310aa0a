"""One pool of prior draws: the same rows wherever they come from, each an exact draw of one class, evaluated once."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tfgradgen as tg
from tests.support.toy import ToyClassifier, ToyGenerator, exact_moments
from tfgradgen.cli.commands import main
from tfgradgen.core.config import RunConfig
from tfgradgen.mcmc import pool as pools
from tfgradgen.mcmc.pool import CHUNK, Pool, cache_root, pool_of, weigh
from tfgradgen.mcmc.rejection import sample_exact
from tfgradgen.mcmc.starts import choose_starts
from tfgradgen.posterior import ClassPosterior

RUN = RunConfig(num_chains=4, seed=5)
NUM_CLASSES, SCALE = 5, 8.0


class Quadrants:
    """A classifier of images [B, 1, 2, 1] of two coordinates, with `NUM_CLASSES` classes; some have two modes, one is rare."""

    num_classes = NUM_CLASSES

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        x, y = SCALE * image[:, 0, 0, 0], SCALE * image[:, 0, 1, 0]
        return tf.stack([0.0 * x, 2.0 * x - 1.0, tf.abs(3.0 * y) - 4.0, x * y - 0.5, -4.0 + 0.3 * x - tf.abs(y)], 1)


class Plane:
    latent_dim = 2

    def __call__(self, z: tf.Tensor) -> tf.Tensor:
        return tf.reshape(z / SCALE, [-1, 1, 2, 1])


class Counting(Plane):
    """A callable that counts the rows that it evaluates and cannot be traced into a graph."""

    def __init__(self) -> None:
        self.num_rows = 0

    def __call__(self, z: tf.Tensor) -> tf.Tensor:
        def count(rows: np.ndarray) -> np.ndarray:
            self.num_rows += len(rows)
            return rows

        counted = tf.numpy_function(count, [z], tf.float32, stateful=False)
        return super().__call__(tf.ensure_shape(counted, z.shape))


@pytest.fixture(scope="module")
def grid() -> tuple[np.ndarray, np.ndarray]:
    """Return points of a fine grid [n, 2], log-probabilities of the classes there, and the weight of the prior in a column."""
    axis = np.linspace(-6, 6, 601, dtype=np.float32)
    z = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    log_probs = tf.nn.log_softmax(Quadrants()(Plane()(tf.constant(z)))).numpy().astype(np.float64)
    weight = np.exp(-0.5 * (z.astype(np.float64) ** 2).sum(1))
    return z, np.concatenate([log_probs, np.log(weight / weight.sum())[:, None]], 1)


def truth(grid: tuple[np.ndarray, np.ndarray], label: int, power: float = 1.0) -> tuple[float, np.ndarray]:
    """Return the mass of a class and the means of six statistics of its draws, by quadrature."""
    z, logs = grid
    weight = np.exp(power * logs[:, label] + logs[:, -1])
    return float(weight.sum()), (statistics(z) * weight[:, None]).sum(0) / weight.sum()


def statistics(z: np.ndarray) -> np.ndarray:
    x, y = z.astype(np.float64).T
    return np.stack([x, y, x * x, y * y, x * y, x > 1.0], 1)


def worst_errors(z: np.ndarray, means: np.ndarray) -> float:
    found = statistics(z)
    return float(np.abs((found.mean(0) - means) / (found.std(0, ddof=1) / np.sqrt(len(z)))).max())


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_accepted_rows_are_exact_draws_of_each_class(grid: tuple[np.ndarray, np.ndarray], temperature: float) -> None:
    """Five classes with six statistics and the mass give 35 z-scores, none above 4.5; for another power, some are far above."""
    posterior = ClassPosterior(Plane(), Quadrants(), 0, temperature=temperature)
    draws = pool_of(posterior, RUN).draws(0, 200 * CHUNK)
    off, wrong = [], []
    for label in range(NUM_CLASSES):
        mask = weigh(posterior.copy(label=label), draws, RUN).is_accepted
        mass, means = truth(grid, label, 1 / temperature)
        off += [abs(mask.mean() - mass) / np.sqrt(mass * (1 - mass) / mask.size), worst_errors(draws.z[mask], means)]
        wrong.append(worst_errors(draws.z[mask], truth(grid, label, 1.3 / temperature)[1]))
    assert max(off) < 4.5
    assert max(wrong) > 8


def test_every_row_is_a_draw_of_one_class() -> None:
    posterior = ClassPosterior(Plane(), Quadrants(), 0)
    draws = pool_of(posterior, RUN).draws(0, 40 * CHUNK)
    accepted = np.stack([weigh(posterior.copy(label=k), draws, RUN).is_accepted for k in range(NUM_CLASSES)])
    np.testing.assert_array_equal(accepted.sum(0), 1)
    cool = posterior.copy(temperature=0.5)
    cooler = np.stack([weigh(cool.copy(label=k), draws, RUN).is_accepted for k in range(NUM_CLASSES)])
    assert not (cooler & ~accepted).any(), "below temperature 1 the draws of two classes stay disjoint"


def test_classes_are_drawn_independently_of_each_other() -> None:
    """Given the number of rows, counts of two classes in blocks of rows are multinomial, and means of
    z are uncorrelated. The control fails: one uniform number for both classes, as if each class accepted by itself."""
    posterior = ClassPosterior(Plane(), Quadrants(), 0)
    draws = pool_of(posterior, RUN).draws(0, 400 * CHUNK)
    first, second = (weigh(posterior.copy(label=k), draws, RUN).is_accepted.reshape(400, -1) for k in (1, 2))
    x = draws.z[:, 0].reshape(400, -1)
    means = [(x * mask).sum(1) / mask.sum(1) for mask in (first, second)]
    assert stats.pearsonr(*means).pvalue > 1e-3
    p, q = first.mean(), second.mean()
    expected = -np.sqrt(p * q / ((1 - p) * (1 - q)))
    assert abs(stats.pearsonr(first.sum(1), second.sum(1)).statistic - expected) < 4 / np.sqrt(400)
    shared = [np.exp(weigh(posterior.copy(label=k), draws, RUN).log_weight) > draws.uniform for k in (1, 2)]
    together = [mask.reshape(400, -1).sum(1) for mask in shared]
    assert abs(stats.pearsonr(*together).statistic - expected) > 6 / np.sqrt(400)


def test_rows_do_not_depend_on_how_they_are_asked_for() -> None:
    posterior = ClassPosterior(Plane(), Quadrants(), 3)
    whole = pool_of(posterior, RUN).draws(0, 3 * CHUNK)
    parts = pools.Pool(pool_of(posterior, RUN)._observe_fn, RUN.seed, 2, (NUM_CLASSES,), pools.NumberedArrays(None, "", (1,)))
    for first, num in ((700, 68), (100, 300), (0, 1)):
        part = parts.draws(first, num)
        for mine, all_of in zip((part.z, part.uniform, part.logits), (whole.z, whole.uniform, whole.logits), strict=True):
            np.testing.assert_array_equal(mine, all_of[first : first + num])
        np.testing.assert_array_equal(
            weigh(posterior, part, RUN).log_uniform, weigh(posterior, whole, RUN).log_uniform[first : first + num]
        )


def test_two_seeds_are_two_pools_and_one_seed_is_one_for_all_labels_and_temperatures() -> None:
    posterior = ClassPosterior(Plane(), Quadrants(), 0)
    pool = pool_of(posterior, RUN)
    assert pool_of(posterior.copy(label=3, temperature=0.3), replace(RUN, num_chains=7)) is pool
    other = pool_of(posterior, replace(RUN, seed=6))
    assert other is not pool
    assert not np.intersect1d(other.draws(0, CHUNK).z, pool.draws(0, CHUNK).z).size
    assert not np.intersect1d(other.draws(0, CHUNK).uniform, pool.draws(0, CHUNK).uniform).size


def test_starts_and_exact_draws_of_all_labels_are_evaluated_once() -> None:
    """20 classes with 64 draws of each: the other labels use what the first label evaluated."""
    generator = Counting()
    posterior, run = ClassPosterior(generator, Quadrants(), 0), RunConfig(num_chains=16, seed=3)
    costs = [sample_exact(posterior.copy(label=label), 8, run)[1].num_forward for label in (0, 1, 2, 3)]
    before = generator.num_rows
    assert max(costs) <= before < max(costs) + 2000, "the longest of them, and the checks of the models"
    assert choose_starts(posterior, run).num_draws == 16 * CHUNK > before - 1000
    again = generator.num_rows
    choose_starts(posterior.copy(label=1, temperature=2.0), run)
    sample_exact(posterior.copy(label=2), 8, run)
    assert generator.num_rows < again + 100, "what the models are known again by"


def test_all_classes_take_ten_times_fewer_forward_passes() -> None:
    """Twenty equal classes, 320 draws of each: each row is a draw of some class, so a little more than 6400 rows suffice."""

    class Twenty:
        num_classes = 20

        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            angle = tf.atan2(image[:, 0, 1, 0], image[:, 0, 0, 0])
            return 8.0 * tf.cos(angle[:, None] - 2 * np.pi / 20 * tf.range(20.0))

    generator = Counting()
    posterior, run = ClassPosterior(generator, Twenty(), 0), RunConfig(num_chains=16, seed=1)
    costs = [sample_exact(posterior.copy(label=label), 20, run)[1].num_forward for label in range(20)]
    assert generator.num_rows < max(costs) + 2000
    assert sum(costs) > 10 * generator.num_rows


def test_models_that_change_under_a_pool_get_another() -> None:
    slope = tf.Variable(1.0)

    class Trained(Quadrants):
        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            return slope * super().__call__(image)

    posterior = ClassPosterior(Plane(), Trained(), 1)
    before = pool_of(posterior, RUN)
    logits = before.draws(0, 8).logits
    assert pool_of(posterior, RUN) is before
    slope.assign(0.5)
    after = pool_of(posterior, RUN)
    assert after is not before
    assert not np.array_equal(after.draws(0, 8).logits, logits)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = ClassPosterior(Plane(), Quadrants(), 0)
    pool = pool_of(posterior, replace(RUN, seed=77))
    first = pool.draws(0, CHUNK)
    monkeypatch.setattr(pools, "MAX_MEMORY", 2 * first.logits.nbytes)
    evaluated = Pool.num_evaluated
    for draws in pool.blocks(CHUNK, 6):
        assert len(draws.z) == CHUNK
    assert len(pool._kept) == 2
    np.testing.assert_array_equal(pool.draws(0, CHUNK).logits, first.logits)
    assert Pool.num_evaluated == evaluated + 6 * CHUNK, "five that were new, and the first again"


def test_a_discriminator_has_a_pool_of_its_own_and_its_weight_is_applied_later() -> None:
    natural = lambda image: image[:, 0, 1, 0]  # noqa: E731
    plain = ClassPosterior(ToyGenerator(), ToyClassifier(), 1)
    driven = plain.copy(discriminator=natural, discriminator_weight=2.0)
    pool = pool_of(driven, RUN)
    assert pool is not pool_of(plain, RUN)
    assert pool is pool_of(driven.copy(discriminator_weight=0.5), RUN)
    draws = pool.draws(10, 50)
    np.testing.assert_allclose(weigh(driven, draws, RUN).log_weight, driven.likelihood_log_prob(draws.z), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(draws.z, pool_of(plain, RUN).draws(10, 50).z)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache folder."""
    monkeypatch.setenv("TFGRADGEN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pools"


def loaded(pair: tuple[Path, Path], label: Any = 0) -> ClassPosterior:
    """Return a posterior of models that were not used in this process before."""
    return ClassPosterior(tg.load_generator(pair[0]), tg.load_classifier(pair[1]), label)


def drawn(pair: tuple[Path, Path], label: Any = 0) -> list[np.ndarray]:
    """Return starts, exact draws and their densities."""
    posterior = loaded(pair, label)
    draws = sample_exact(posterior, 40, RUN)[0]
    return [choose_starts(posterior, RUN).z.numpy(), draws.z, draws.class_prob, draws.target_log_prob]


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_the_bits_are_the_same_without_a_cache_with_a_part_of_it_and_with_all(
    toy_pair: tuple[Path, Path], cached: Path
) -> None:
    evaluated = Pool.num_evaluated
    without = drawn(toy_pair)
    files = sorted(cached.glob("*/*"))
    assert len(files) == 4 == (Pool.num_evaluated - evaluated) // CHUNK
    assert_same(drawn(toy_pair), without)
    assert Pool.num_evaluated == evaluated + 4 * CHUNK, "all from the cache"
    files[1].unlink()
    content = files[2].read_bytes()
    files[2].write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    assert_same(drawn(toy_pair), without)
    assert Pool.num_evaluated == evaluated + 6 * CHUNK, "one that was gone and one that was damaged"
    assert files[2].read_bytes() == content
    assert sorted(cached.glob("*/*")) == files


def test_scores_without_any_number_are_not_believed(toy_pair: tuple[Path, Path], cached: Path) -> None:
    without = drawn(toy_pair)
    (folder,) = cached.iterdir()
    pool = pool_of(loaded(toy_pair), RUN)
    assert pool._arrays.put(0, np.full([CHUNK, 3], np.nan, np.float32))
    assert_same(drawn(toy_pair), without)
    assert folder.is_dir()


@pytest.mark.parametrize("problem", ["no home", "a file in its place", "others can write it"])
def test_without_a_cache_folder_pools_are_in_memory(
    toy_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    expected = drawn(toy_pair)
    if problem == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    else:
        monkeypatch.setenv("TFGRADGEN_CACHE_DIR", str(tmp_path / "cache"))
        if problem == "a file in its place":
            (tmp_path / "cache").write_text("")
        else:
            (tmp_path / "cache").mkdir()
            os.chmod(tmp_path / "cache", 0o777)
    before = sorted(tmp_path.rglob("*.f32"))
    assert cache_root() is None
    assert_same(drawn(toy_pair), expected)
    assert sorted(tmp_path.rglob("*.f32")) == before == []
    assert not (tmp_path / "nobody").exists()


def test_settings_and_classifiers_are_distinguished_on_disk(toy_pair: tuple[Path, Path], cached: Path) -> None:
    generator, classifier = (tg.load_generator(toy_pair[0]), tg.load_classifier(toy_pair[1]))
    other = tg.load_classifier(toy_pair[1], image_range=(0.0, 1.0))
    for each in (classifier, other):
        pool_of(ClassPosterior(generator, each, 0), RUN).draws(0, 1)
    assert len(list(cached.iterdir())) == 2
    pool_of(ClassPosterior(generator, classifier, 0, max_batch=4), RUN).draws(0, 1)
    pool_of(ClassPosterior(generator, classifier, "goldfish & !alp"), RUN).draws(0, 1)
    assert len(list(cached.iterdir())) == 3, (
        "how rows are batched decides their last bits; a condition shares its classes' pool"
    )


def test_conditions_are_drawn_exactly_from_the_classes_pool(toy_pair: tuple[Path, Path]) -> None:
    posterior = loaded(toy_pair, "goldfish & !alp")
    plain = loaded(toy_pair)
    draws = pool_of(posterior, RUN).draws(0, 60 * CHUNK)
    weighed = weigh(posterior, draws, RUN)
    np.testing.assert_allclose(weighed.class_log_prob[:64], posterior.class_log_prob(draws.z[:64]), atol=1e-5)
    prob = np.exp(weighed.class_log_prob)
    assert abs(weighed.is_accepted.mean() - prob.mean()) < 4 * np.sqrt(0.25 / prob.size)
    own = weigh(plain, draws, RUN)
    assert not np.array_equal(own.log_uniform, weighed.log_uniform), "its numbers are its own"


def test_moments_of_a_class_are_of_other_draws_than_its_starts() -> None:
    posterior = ClassPosterior(ToyGenerator(), ToyClassifier(), 1)
    mean, _, num_drawn = tg.class_moments(posterior, RUN)
    own = sample_exact(posterior, 128, replace(RUN, num_chains=1))[0].z[:, 0]
    assert not np.allclose(own.mean(0), mean, atol=1e-3)
    assert abs(mean[0] - exact_moments()[0]) < 4 * exact_moments()[1] / np.sqrt(128)
    assert num_drawn >= 128


@pytest.mark.usefixtures("sketched_plots")
def test_a_command_gives_the_same_files_with_the_cache_and_without(
    toy_flags: list[str], cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kernel, more in (("rejection", []), ("mala", ["--num_burnin_steps=4"])):
        for out in ("one", "other"):
            command = ["sample", "--label=goldfish", f"--kernel={kernel}", *more, "--num_results=5", "--num_chains=3"]
            main([*command, f"--out={kernel}-{out}", *toy_flags])
        for name in ("samples.npz", "grid.png", "film.png"):
            one, other = (Path(f"{kernel}-{out}", name).read_bytes() for out in ("one", "other"))
            assert one == other, name
    assert list(cached.glob("*/*"))
