"""tune refuses schedules whose draws are not from the posterior, by exact draws, and says which labels it could not check."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support.toy import ToyClassifier, ToyGenerator
from tests.support.tuned import cell_of
from tests.support.two_modes import NUM_CHAINS, FiveClasses, Plane, Truth, each_chain_its_own
from tfgradgen.core.config import RunConfig
from tfgradgen.mcmc import chains as sampling
from tfgradgen.mcmc.recipe import Recipe, default_recipe
from tfgradgen.mcmc.registry import kernel_sampler
from tfgradgen.posterior import ClassPosterior
from tfgradgen.tuning import guard
from tfgradgen.tuning.gain import MAX_CANDIDATES, Validation
from tfgradgen.tuning.guard import LEAST_EXACT, LEVEL, NUM_EXACT, Exact, bias_issues, differences, exact_of, guard_lines
from tfgradgen.tuning.objective import FRESH, Cell, Objective
from tfgradgen.tuning.report import to_markdown
from tfgradgen.tuning.search import COMPLETE, CONTROL, Plan, Trial

SILENT: Any = lambda *_: None  # noqa: E731
TOY = ClassPosterior(ToyGenerator(), ToyClassifier(), 1)
TWO_MODES = ClassPosterior(Plane(), FiveClasses(), 2)


def validation(
    posterior: ClassPosterior, recipe: Recipe, num_chains: int, num_gradients: int, init: np.ndarray | None = None
) -> Validation:
    """Run `recipe` on three fresh seeds, as `validate` does, from `init` [3, num_chains, latent_dim] if it is given."""
    objective = Objective({"one": posterior}, RunConfig(num_chains=num_chains, seed=3), num_gradients)
    problems = objective.problems(FRESH, 3)
    if init is not None:
        powers = tuple(kernel_sampler(recipe.kernel).powers(recipe.config))
        objective._starts = {(problem, powers): tf.constant(rows) for problem, rows in zip(problems, init, strict=True)}
    cells = [objective.measure(recipe, problem, SILENT) for problem in problems]
    return Validation(Trial(1, COMPLETE, recipe, cells), problems, cells, cells, {"one": exact_of(posterior, objective.run)})


def bias_of(found: Validation) -> list[str]:
    """Return its issues except those of single chains: in a narrow mode some stand still."""
    return bias_issues(found.differences(found.ours), MAX_CANDIDATES)


def mala(**values: Any) -> Recipe:
    return default_recipe("mala").changed({"num_burnin_steps": 40, "num_adaptation_steps": 30} | values)


def test_a_pull_to_the_middle_of_the_class_is_refused_and_its_absence_is_not() -> None:
    # A weight of 3 moves the mean p(class) from 0.77 to 0.65, by 8 standard errors of 256 exact draws; 1 would move it by 4.
    sound, pulled = (validation(TOY, mala(class_reg=weight), 64, 120) for weight in (0.0, 3.0))
    assert sound.issues == []
    assert pulled.issues[-1].startswith("its draws are not from the posterior: the mean ")
    assert f"{NUM_EXACT} exact draws" in pulled.issues[-1]
    assert pulled.gain is None, "it cannot win"


@pytest.mark.slow
def test_step_sizes_chain_by_chain_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """2000 chains per run start at exact draws: a step size for each chain changes the modes' shares, a shared one does not."""
    recipe = mala(num_burnin_steps=300, num_adaptation_steps=280)
    init = Truth.of(TWO_MODES).draw(3 * NUM_CHAINS, 4).reshape(3, NUM_CHAINS, 2)
    assert bias_of(validation(TWO_MODES, recipe, NUM_CHAINS, 330, init)) == []
    sampling.compiled.cache_clear()
    monkeypatch.setattr(sampling, "adaptive_kernel", each_chain_its_own)
    issues = bias_of(validation(TWO_MODES, recipe, NUM_CHAINS, 330, init))
    sampling.compiled.cache_clear()
    assert "its draws are not from the posterior" in issues[-1]


def cells_of(rng: np.random.Generator, shift: float, num_chains: int) -> list[Cell]:
    means = {
        "class_prob": (rng.normal(0.5 + shift, 0.2, num_chains)).tolist(),
        "z_projection_0": rng.normal(0, 1, num_chains).tolist(),
    }
    return [replaced(cell_of(1.0), means)]


def replaced(cell: Cell, means: dict[str, list[float]]) -> Cell:
    return cell._replace(chain_means=means)


def exact_draws(rng: np.random.Generator) -> Exact:
    prob, z = rng.normal(0.5, 0.3, NUM_EXACT), rng.normal(0, 2, NUM_EXACT)
    errors = {name: float(x.std(ddof=1) / 16) for name, x in (("class_prob", prob), ("z_projection_0", z))}
    return Exact(NUM_EXACT, {"class_prob": float(prob.mean()), "z_projection_0": float(z.mean())}, errors)


@pytest.mark.parametrize("num_chains", [4, 24])
def test_a_sound_schedule_is_refused_as_rarely_as_said(num_chains: int) -> None:
    """Bonferroni's bound gives LEVEL for two statistics and any number of chains: at most 40 of 4000 runs, up to chance."""
    rng, problem = np.random.default_rng(0), Objective({"one": TOY}, RunConfig(), 100).problems(FRESH, 1)
    refused = sum(
        bool(bias_issues(differences(problem, cells_of(rng, 0.0, num_chains), {"one": exact_draws(rng)}), 1))
        for _ in range(4000)
    )
    assert refused < 4000 * LEVEL + 4 * np.sqrt(4000 * LEVEL)
    assert refused > 0, "the bound is not far off"
    found = [
        bias_issues(differences(problem, cells_of(rng, 1.5, 24), {"one": exact_draws(rng)}), MAX_CANDIDATES) for _ in range(9)
    ]
    assert all(found), "a shift of seven chains' deviations is always found"


def test_a_class_too_rare_for_exact_draws_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rare(ToyClassifier):
        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            return super().__call__(image) - tf.constant([0.0, 9.0])

    monkeypatch.setattr(guard, "MOST_FORWARD", 2000)
    rare = exact_of(ClassPosterior(ToyGenerator(), Rare(), 1), RunConfig(seed=1))
    assert rare == Exact(0, {}, {})
    lines = guard_lines([], {"one": rare})
    assert lines == [
        f"Means were not compared with exact draws of one: rejection accepts fewer than {LEAST_EXACT} of 2000 prior draws. "
        "A bias would not be detected."
    ]


def test_the_report_lists_comparisons_and_a_bias_of_the_control() -> None:
    recipe = mala(num_results=50, target_accept_prob=0.6)
    rng = np.random.default_rng(0)
    exact = {"one": exact_draws(rng), "other": Exact(0, {}, {})}
    (sound,), (biased,) = cells_of(rng, 0.0, 24), cells_of(rng, 1.5, 24)
    problems = Objective({"one": TOY, "other": TOY}, RunConfig(), 100).problems(FRESH, 2)[::2]
    plan = Plan("mala", recipe, 400, 1, 4000.0, 0)
    control, winner = Trial(0, CONTROL, recipe, [biased]), Trial(1, COMPLETE, recipe.changed({"step_size": 0.3}), [sound])
    of_winner = Validation(winner, problems, [sound] * 2, [biased] * 2, exact)
    text = to_markdown(plan, exact, [control, winner], [of_winner], "the command")
    assert "Means of 2 statistics were compared with exact draws of one." in text
    assert "Means were not compared with exact draws of other" in text
    assert "The control has problems: its draws are not from the posterior: the mean class_prob of one is " in text
    assert "The control has problems: its draws are not from the posterior" in text


def test_damaged_exact_draws_in_a_study_are_refused() -> None:
    for values in ({"num_draws": "a", "means": {}, "errors": {}}, {"num_draws": 9, "means": {"a": 1.0}, "errors": {}}, {}, 3):
        with pytest.raises((TypeError, ValueError, AttributeError)):
            guard.exact_from(values)
