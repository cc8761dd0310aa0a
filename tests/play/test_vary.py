"""vary: small steps from a draw of the posterior, which give draws of the posterior."""

import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfgradgen as tg
from tests.support import toy
from tfgradgen.core.backend import as_seed, fold_in
from tfgradgen.core.checks import UserError
from tfgradgen.core.contracts import collect
from tfgradgen.mcmc.chains import chain_chunks, sample_chains
from tfgradgen.mcmc.split_hmc import UncalibratedSplitHmc
from tfgradgen.play.vary import recipe_of, vary

NUM = 4000  # independent exact draws, so that means have the error sd / sqrt(NUM)
POSTERIOR = tg.ClassPosterior(toy.ToyGenerator(), toy.ToyClassifier(), 1)


@pytest.fixture(scope="module")
def exact() -> np.ndarray:
    return tg.sample(POSTERIOR, "rejection", num_results=1, num_chains=NUM, seed=3).z[0]


@pytest.fixture(scope="module")
def run() -> tg.SampleResult:
    return tg.sample(POSTERIOR, "rejection", num_results=2, num_chains=4)


def z_scores(z: np.ndarray) -> list[float]:
    """Return z-scores of mean, variance and p(class) of `z` [NUM, 6] against those of the posterior by quadrature."""
    mean, deviation, prob = toy.exact_moments()
    found = z[:, 0].astype(float)
    columns = {mean: found, deviation**2: (found - mean) ** 2, prob: 1 / (1 + np.exp(-toy.SLOPE * found))}
    return [abs(values.mean() - expected) / (values.std() / math.sqrt(NUM)) for expected, values in columns.items()]


@pytest.mark.parametrize(("amount", "num_steps"), [(0.3, 16), (0.9, 2), (1.0, 1)])
def test_exact_draws_stay_exact_draws(exact: np.ndarray, amount: float, num_steps: int) -> None:
    recipe = recipe_of(amount, num_steps)
    given = tg.RunConfig(num_chains=NUM, init="prior", seed=5)
    draws, _ = sample_chains(POSTERIOR, recipe.kernel, recipe.config, recipe.schedule, given, tf.constant(exact))
    assert max(z_scores(exact)) < 4
    assert max(z_scores(draws.z[-1])) < 4
    assert (draws.z[-1] != exact).any(1).mean() > 0.3


def test_without_the_test_of_metropolis_they_do_not(exact: np.ndarray) -> None:
    """The negative control of the test above: the same proposals, all accepted."""
    recipe = recipe_of(1.0, 1)
    step_size = recipe.config.to_dict()["step_size"]
    kernel = UncalibratedSplitHmc(POSTERIOR.prior_log_prob, POSTERIOR.likelihood_log_prob, step_size, 1)
    z, _ = kernel.one_step(tf.constant(exact), kernel.bootstrap_results(tf.constant(exact)), seed=fold_in(as_seed(5), 1))
    assert max(z_scores(z.numpy())) > 4


def test_the_amount_is_the_part_of_z_that_is_replaced() -> None:
    """Without a likelihood, every step is accepted; the start keeps the weight sqrt(1 - amount^2) for any number of steps."""

    class Flat(toy.ToyClassifier):
        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            return 1e-3 * super().__call__(image)

    posterior = tg.ClassPosterior(toy.ToyGenerator(), Flat(), 1)
    z = np.asarray(tf.random.stateless_normal([NUM, 6], [1, 2]))
    for amount, num_steps in ((0.2, 4), (0.6, 16)):
        recipe = recipe_of(amount, num_steps)
        given = tg.RunConfig(num_chains=NUM, init="prior")
        chunks = chain_chunks(posterior, recipe.kernel, recipe.config, recipe.schedule, given, tf.constant(z))
        draws = collect(chunks).draws
        left = (draws.z[-1] * z).sum() / (z * z).sum()
        assert draws.is_accepted.mean() > 0.999
        # Each step is jittered by up to a half, which replaces a twelfth more on average, and a random amount around it.
        assert abs(1 - left - (1 - math.sqrt(1 - amount**2))) < 0.5 * (1 - math.sqrt(1 - amount**2))


def test_the_images_are_near_the_draw_and_nearer_for_a_smaller_amount(run: tg.SampleResult) -> None:
    distances = []
    for amount in (0.05, 0.8):
        found = vary(run, 2, amount=amount, num_images=32, posterior=POSTERIOR, seed=1)
        assert found.z.shape == (16, 32, 6)
        distances.append(np.linalg.norm(found.z[-1] - run.z[-1, 2], axis=1).mean())
    assert distances[0] < 0.3 < distances[1]
    assert distances[0] > 0


def test_the_same_arguments_give_the_same_images_and_the_record_says_which(run: tg.SampleResult, tmp_path: Path) -> None:
    first, second = (vary(run, 1, num_images=3, num_steps=4, posterior=POSTERIOR, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first.z, second.z)
    other = vary(run, 1, num_images=3, num_steps=4, posterior=POSTERIOR, seed=8)
    assert (other.z != first.z).any()
    read = tg.load_run(first.save(tmp_path / "near"))
    assert read.record["varied"] == {"run": "", "chain": 1, "amount": 0.3, "num_steps": 4}
    assert (read.record["seed"], read.record["command"]) == (7, "vary")
    np.testing.assert_array_equal(read.z, first.z)
    assert read.record == first.record


def test_the_starts_are_exact_if_the_run_says_so_of_its_images(run: tg.SampleResult) -> None:
    sound, doubted = run.noted({"doubts": [], "image_doubts": []}), run.noted({"image_doubts": ["the generator is random"]})
    assert (sound.grades["images"], doubted.grades["images"]) == ("ok", "warning")
    found = [vary(each, 1, num_images=8, posterior=POSTERIOR).record["exact_starts"] for each in (sound, doubted)]
    assert found == [8, None]


@pytest.mark.parametrize("num_steps", [2, 400])
def test_they_are_not_for_averages(num_steps: int, run: tg.SampleResult, caplog: pytest.LogCaptureFixture) -> None:
    sound = run.noted({"doubts": [], "image_doubts": []})
    caplog.set_level("INFO")
    found = vary(sound, 0, amount=1, num_images=4, num_steps=num_steps, posterior=POSTERIOR)
    found = found.noted({"doubts": [], "image_doubts": []})  # without the warnings about the toy, whose pixels leave [-1, 1]
    assert found.grades["means"] == "warning"
    lines = [line for line in found.issues if line.startswith("means")]
    assert [line.partition(" (")[0] for line in lines] == [
        "means: all chains start at one draw, so do not average over them; for averages, run `sample`"
    ]
    assert not any("--kernel" in line or "num_results" in line for line in found.issues)
    assert found.record["passed"] == ["images: 4 draws of the posterior, near one draw, not independent"]
    assert "prior draws" not in caplog.text


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"chain": 4}, "chain: expected an integer in 0..3, got 4"),
        ({"amount": 1e-9}, "amount: expected a number of at least 0.001 and at most 1"),
        ({"amount": 1.5}, "amount: expected a number of at least 0.001 and at most 1"),
        ({"num_images": 0}, "num_images: expected an integer in 1..4096"),
        ({"posterior": 3}, "posterior: expected a tfgradgen.ClassPosterior, got int"),
        ({"posterior": POSTERIOR.copy(temperature=0.5)}, "posterior: expected that of the run, with class 1 at temperature 1"),
        ({"posterior": POSTERIOR.copy(label=0)}, "got class 0 at temperature 1"),
        ({"posterior": None}, "run: expected a generator that run.json names, got a model that was given as a Python object"),
    ],
)
def test_wrong_arguments_are_refused(wrong: dict[str, object], words: str, run: tg.SampleResult) -> None:
    with pytest.raises(UserError) as error:
        vary(run, **({"chain": 0, "posterior": POSTERIOR} | wrong))  # type: ignore[arg-type]
    assert words in str(error.value)
