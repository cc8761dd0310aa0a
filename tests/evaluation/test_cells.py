"""What a comparison samples: the same starts for all, states after the right number of gradients, and exact draws."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy
from tfgradgen.core.checks import UserError
from tfgradgen.core.config import RunConfig, Schedule
from tfgradgen.core.contracts import Progress
from tfgradgen.evaluation.cell_cache import CellCache
from tfgradgen.evaluation.cells import Cell, LabelReference, prepare_label, run_cell
from tfgradgen.evaluation.method_specs import MethodSpec, parse_method_spec
from tfgradgen.mcmc.chains import sample_chains
from tfgradgen.posterior import ClassPosterior

RUN = RunConfig(num_chains=4, seed=3)
POINTS = [10, 30, 300]


def ignore(progress: Progress) -> None:
    assert 0 <= progress.num_done <= progress.num_total


@pytest.fixture(scope="module")
def posterior() -> ClassPosterior:
    return ClassPosterior(toy.ToyGenerator(), toy.ToyClassifier(), 1)


@pytest.fixture(scope="module")
def reference(posterior: ClassPosterior) -> LabelReference:
    return prepare_label(posterior, RUN, ignore)


@pytest.mark.parametrize("name", ["mala", "hmc", "map"])
def test_a_cell_holds_the_states_of_one_run(posterior: ClassPosterior, reference: LabelReference, name: str) -> None:
    """During the burn-in and after it, a chain has the state that it has in `sample` after as many gradients."""
    entry = parse_method_spec(name, 1.0)
    per_step = getattr(entry.config, "num_leapfrog_steps", 1)
    cell = run_cell(posterior, entry, reference, RUN, POINTS, ignore)
    defaults = entry.sampler.schedule
    for at, point in enumerate(POINTS):
        num_steps = (point - 1) // per_step  # one gradient is needed at the start
        assert cell.num_gradients[at] == 1 + num_steps * per_step
        num_burnin = min(num_steps - 1, defaults.num_burnin_steps)
        if num_burnin < defaults.num_adaptation_steps:
            continue  # `sample` cannot end during the adaptation
        schedule = Schedule(num_steps - num_burnin, num_burnin, defaults.num_adaptation_steps)
        draws, _ = sample_chains(posterior, name, entry.config, schedule, RUN, reference.init_z)
        np.testing.assert_array_equal(cell.z[at], draws.z[-1])
    assert (name == "map") == np.isnan(cell.ess).all()


def test_every_chain_method_starts_at_the_same_points(posterior: ClassPosterior, reference: LabelReference) -> None:
    """After two gradients with a tiny step size, mala is still at its start, and so is map."""
    for name in ("mala", "mala+reg", "map", "map+reg"):
        entry = parse_method_spec(name, 1.0)
        tiny = MethodSpec(name, entry.sampler, type(entry.config)(**entry.config.to_dict() | {"step_size": 1e-6}))
        cell = run_cell(posterior, tiny, reference, RUN, [2], ignore)
        np.testing.assert_allclose(cell.z[0], reference.init_z, atol=1e-4)


def test_exact_draws_are_of_the_posterior(posterior: ClassPosterior) -> None:
    run = RunConfig(num_chains=512, seed=0)
    reference = prepare_label(posterior, run, ignore)
    mean, std, _ = toy.exact_moments()
    for z in (reference.exact_z, reference.truth_z):
        assert abs(z[:, 0].mean() - mean) < 4 * std / np.sqrt(len(z))
    assert abs(reference.prior_z[:, 0].mean()) < 4 / np.sqrt(512), "plain prior draws are not"
    assert reference.prior_z[:, 0].mean() < mean - 4 * std / np.sqrt(512)
    both = np.concatenate([reference.exact_z, reference.truth_z])
    assert len(np.unique(both, axis=0)) == len(both)
    rejection = run_cell(posterior, parse_method_spec("rejection", 1.0), reference, run, POINTS, ignore)
    np.testing.assert_array_equal(rejection.z[0], rejection.z[-1])
    assert rejection.num_forward[0] == pytest.approx(2, rel=0.2), "half of the toy's prior is the class"


def test_a_fit_spends_about_the_budget_and_no_more_than_it(posterior: ClassPosterior, reference: LabelReference) -> None:
    cell = run_cell(posterior, parse_method_spec("hvi", 1.0), reference, RUN, [3, 10, 100], ignore)
    assert np.isnan(cell.z[0]).all(), "three gradients are too few for one path"
    assert cell.num_gradients[1] <= 10
    assert 80 < cell.num_gradients[2] <= 100
    assert np.isnan(cell.ess).all(), "its draws are not of the posterior"
    assert np.isfinite(cell.z[1:]).all()


def test_smc_spends_about_the_budget_and_no_more_than_it(posterior: ClassPosterior, reference: LabelReference) -> None:
    cell = run_cell(posterior, parse_method_spec("smc", 1.0), reference, RUN, [10, 100, 300], ignore)
    assert np.isnan(cell.z[0]).all(), "ten gradients are too few for two particles"
    work = cell.num_gradients + 0.45 * cell.num_forward
    assert 15 < work[1] <= 100
    assert 100 < work[2] <= 300
    with pytest.raises(UserError, match="num_gradients: expected at least"):
        run_cell(posterior, parse_method_spec("smc", 1.0), reference, RUN, [10], ignore)


def test_a_class_too_rare_for_rejection_leaves_the_other_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rare(toy.ToyClassifier):
        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            return super().__call__(image) - tf.constant([0.0, 60.0])

    monkeypatch.setattr("tfgradgen.mcmc.rejection.MAX_FRUITLESS_DRAWS", 256)
    rare = ClassPosterior(toy.ToyGenerator(), Rare(), 1)
    reference = prepare_label(rare, RUN, ignore)
    assert len(reference.exact_z) == len(reference.truth_z) == 0
    assert np.isfinite(run_cell(rare, parse_method_spec("mala", 1.0), reference, RUN, POINTS, ignore).z).all()
    for name in ("rejection", "map+reg"):
        with pytest.raises(UserError, match="a rare class"):
            run_cell(rare, parse_method_spec(name, 1.0), reference, RUN, POINTS, ignore)


def test_labels_share_no_draw(posterior: ClassPosterior, reference: LabelReference) -> None:
    """With shared noise, chains k of two classes would not be independent in a test that pools them."""
    other = prepare_label(ClassPosterior(toy.ToyGenerator(), toy.ToyClassifier(), 0), RUN, ignore)
    for name in ("init_z", "prior_z", "exact_z", "truth_z"):
        both = np.concatenate([getattr(reference, name), getattr(other, name)])
        assert len(np.unique(both, axis=0)) == len(both), name


def test_a_chain_that_is_lost_fails_its_cell(
    posterior: ClassPosterior, reference: LabelReference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfgradgen.mcmc.chains.checked_start", lambda z, *_, **__: tf.convert_to_tensor(z))  # NaN in the run
    broken = reference._replace(init_z=np.where(np.arange(4)[:, None] == 2, np.nan, reference.init_z).astype(np.float32))
    with pytest.raises(UserError, match="map: expected finite states, got 1 of 4 chains"):
        run_cell(posterior, parse_method_spec("map", 1.0), broken, RUN, POINTS, ignore)


def test_a_cache_gives_back_what_was_put_and_nothing_else(tmp_path: Path) -> None:
    cell = Cell(*(np.arange(k + 2.0) for k in range(5)))
    cache = CellCache(tmp_path, {"seed": 0})
    fits: Any = lambda _: True  # noqa: E731
    assert cache.get("alp", "mala", Cell, {"config": None}, fits) is None
    cache.put("alp", "mala", cell, {"config": None})
    found = cache.get("alp", "mala", Cell, {"config": None}, fits)
    assert cache.get("alp", "mala", Cell, {"config": None}, lambda _: False) is None
    assert found is not None
    for ours, theirs in zip(cell, found, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(UserError, match="seed 0 as in"):
        CellCache(tmp_path, {"seed": 1}).get("alp", "mala", Cell, {"config": None}, fits)
    assert [path.name for path in (tmp_path / "alp").iterdir()] == ["mala.npz"]
