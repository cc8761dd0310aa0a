"""The search itself, on simulated runs: halving, budget, resuming, issues, and the interval of a gain."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from tests.support.tuned import LONG, TUNABLE, cell_of
from tfgradgen.core.backend import seed_of
from tfgradgen.core.checks import UserError
from tfgradgen.core.config import RunConfig
from tfgradgen.mcmc.recipe import Recipe, default_recipe
from tfgradgen.mcmc.registry import kernel_sampler
from tfgradgen.tuning.figures import importances, plot_search
from tfgradgen.tuning.gain import MAX_CANDIDATES, Validation, gain, short_runs, validate
from tfgradgen.tuning.guard import Exact
from tfgradgen.tuning.objective import FRESH, Cell, Objective, Problem, issues_of
from tfgradgen.tuning.report import to_csv, to_markdown, verdict, winner
from tfgradgen.tuning.search import COMPLETE, CONTROL, ELIMINATED, REJECTED, Plan, Trial, goes_on, open_study, search
from tfgradgen.tuning.space import (
    MAX_BURNIN_SHARE,
    MIN_KEPT,
    check_fits,
    check_tunable,
    coordinates,
    filled,
    may_be_untuned,
    num_gradients_of,
    suggest,
)

BEST_STEP, TOO_LONG = 0.6, 1.0
SILENT: Any = lambda *_: None  # noqa: E731
UNKNOWN = {"a": Exact(0, {}, {}), "b": Exact(0, {}, {})}


class Pretended(Objective):
    """An objective whose ESS falls with the distance of log step_size from that of BEST_STEP. A step longer than TOO_LONG seems
    best, but has the issues `of_long`. It is interrupted after `stop` runs."""

    def __init__(
        self,
        stop: int = 10**6,
        fresh_issues: Callable[[Recipe], bool] = lambda recipe: False,
        of_long: tuple[str, ...] = ("chains 0 stuck",),
    ):
        super().__init__({"a": None, "b": None}, RunConfig(num_chains=4), LONG)  # type: ignore[dict-item]
        self.left, self.fresh_issues, self.of_long, self.made = stop, fresh_issues, of_long, list[tuple[Recipe, Problem]]()

    def measure(self, recipe: Recipe, problem: Problem, progress_fn: Any) -> Cell:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.made.append((recipe, problem))
        settings = recipe.config.to_dict()
        step_size, accept_rate = settings["step_size"], settings["target_accept_prob"]
        noise = np.random.default_rng(seed_of(int(1e9 * step_size), *problem[1:])).normal(0.0, 0.1)
        if step_size > TOO_LONG:
            return cell_of(100.0, *self.of_long, accept_rate=accept_rate, num_results=recipe.schedule.num_results)
        if problem.stream == FRESH and self.fresh_issues(recipe):
            return cell_of(100.0, "acceptance is off")
        per_1000 = 20.0 * float(np.exp(-np.abs(np.log(step_size / BEST_STEP)) + noise))
        return cell_of(per_1000, accept_rate=accept_rate, num_results=recipe.schedule.num_results)


CONTROL_RECIPE = filled(default_recipe("hmc").changed({"step_size": 0.03, "num_burnin_steps": 20}), LONG)


HELD = {"adaptation": "dual_averaging"}


def plan_of(num_runs: int, num_seeds: int = 2) -> Plan:
    return Plan("hmc", CONTROL_RECIPE, LONG, num_seeds, num_runs * LONG, seed=1)


class Copied:
    """A study with the trials of another one, and fresh runs of its own."""

    def __init__(self, study: Any):
        self.get_trials, self.user_attrs, self.set_user_attr = study.get_trials, {}, self._set

    def _set(self, name: str, value: Any) -> None:
        self.user_attrs[name] = value


def study_in_memory() -> Any:
    """Return an empty study. A search with it takes a quarter of the time of one in a file."""
    return optuna.create_study(direction="maximize")


def outcomes_of(found: list[Trial]) -> list[Any]:
    return [(t.state, t.recipe, t.cells) for t in found]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Pretended, Plan, list[Trial], list[float]]:
    study, objective = open_study(tmp_path_factory.mktemp("search") / "study.db", {"of": 1}), Pretended()
    plan = replace(plan_of(120), fixed=HELD)
    shares: list[float] = []
    found = search(study, objective, plan, lambda p: shares.append(p.num_done / p.num_total), SILENT)
    return study, objective, plan, found, shares


def test_a_search_finds_what_is_better_within_its_budget(searched: Any) -> None:
    _, objective, plan, found, _ = searched
    assert found[0].state == CONTROL
    assert found[0].recipe == CONTROL_RECIPE
    spent = sum(trial.work for trial in found)
    assert plan.budget <= spent < plan.budget + LONG, "the last run begins within it"
    assert spent == LONG * len(objective.made), "no run is lost, none counted twice"
    best = max((t for t in found if t.state == COMPLETE), key=lambda t: t.value)
    assert best.value > 5 * found[0].value
    assert {t.state for t in found} == {CONTROL, COMPLETE, ELIMINATED, REJECTED}


def share_of_long(found: list[Trial]) -> float:
    """Return the share of later proposals with a long step."""
    steps = [t.recipe.config.to_dict()["step_size"] for t in found[len(found) // 2 :] if t.recipe]
    return float(np.mean(np.asarray(steps) > TOO_LONG))


def test_what_has_an_issue_is_out_however_good_it_looks(searched: Any) -> None:
    study, objective, plan, found, _ = searched
    rejected = [t for t in found if t.state == REJECTED and t.cells]
    assert rejected
    assert all(t.cells[0].per_1000 > max(o.value for o in found if o.state == COMPLETE) for t in rejected)
    assert all(len(t.cells) == 1 for t in rejected), "it gets no second run"
    validations = validate(study, objective, plan, 2, UNKNOWN, SILENT)
    assert validations[-1].trial.state == COMPLETE
    assert winner(plan, validations).config.to_dict()["step_size"] <= TOO_LONG
    without = search(study_in_memory(), Pretended(of_long=()), plan, SILENT, SILENT)
    assert 2 * share_of_long(found) < share_of_long(without), "the search leaves where issues are, not where none are"


def test_acceptance_is_asked_of_the_mean_over_runs() -> None:
    cells = [cell_of(1.0, accept_rate=rate) for rate in (0.47, 0.55)]
    assert issues_of(CONTROL_RECIPE, cells) == []
    assert issues_of(CONTROL_RECIPE, [cells[0]._replace(accept_error=0.03)]) == [], "it may be chance"
    assert issues_of(CONTROL_RECIPE, cells[:1])[0].startswith(
        "acceptance 0.47 is off its target 0.60: raise --num_adaptation_steps"
    )
    untuned = CONTROL_RECIPE.changed({"num_adaptation_steps": 0})
    assert issues_of(untuned, cells[:1]) == [], "nothing was tuned for"
    assert issues_of(CONTROL_RECIPE, [*cells, cell_of(1.0, "stuck"), cell_of(1.0, "stuck")]) == ["stuck"]


def test_divergences_are_counted_over_all_runs() -> None:
    """One in a thousand is chance, however long the runs. A larger share is an issue as soon as the runs prove it."""
    cell = cell_of(1.0)._replace(num_transitions=2000)
    assert issues_of(CONTROL_RECIPE, [cell._replace(num_divergent=2)] * 20) == []
    assert issues_of(CONTROL_RECIPE, [cell._replace(num_divergent=5)]) == []
    assert issues_of(CONTROL_RECIPE, [cell._replace(num_divergent=5)] * 2) == [
        "10 of 4000 transitions diverged, energy error above 1000 nats: significantly more than 1 in 1000"
    ]
    assert issues_of(CONTROL_RECIPE, [cell._replace(num_divergent=2000)])
    assert issues_of(CONTROL_RECIPE, [cell_of(1.0)]) == [], "studies of older versions have no counts"


def test_a_schedule_that_diverges_gets_no_second_run() -> None:
    class Diverging(Pretended):
        def measure(self, recipe: Recipe, problem: Problem, progress_fn: Any) -> Cell:
            is_long = recipe.config.to_dict()["step_size"] > TOO_LONG
            cell = super().measure(recipe, problem, progress_fn)
            return cell._replace(num_divergent=40 if is_long else 1, num_transitions=1000)

    found = search(study_in_memory(), Diverging(of_long=()), plan_of(40), SILENT, SILENT)
    long = [trial for trial in found if trial.recipe and trial.recipe.config.to_dict()["step_size"] > TOO_LONG]
    assert long
    assert {(trial.state, len(trial.cells)) for trial in long} == {(REJECTED, 1)}
    assert any(trial.state == COMPLETE for trial in found)


def test_only_the_better_half_goes_on() -> None:
    rivals = [Trial(k, ELIMINATED, None, [cell_of(value)]) for k, value in enumerate((1.0, 2.0, 3.0))]
    assert goes_on([cell_of(2.5)], rivals), "the second of four"
    assert not goes_on([cell_of(1.5)], rivals), "the third"
    assert goes_on([cell_of(1.0), cell_of(9.0)], rivals), "of two runs it is the first to have so many"
    assert goes_on([cell_of(0.1)] * 3, [Trial(0, COMPLETE, None, [cell_of(9.0)] * 4)]), "halving is after 1, 2, 4, ... runs"
    rejected = Trial(9, REJECTED, None, [cell_of(50.0, "stuck")])
    assert goes_on([cell_of(2.5)], [*rivals, rejected]), "a rejected one is no rival"


def in_pieces(plan: Plan, stops: tuple[int, ...], path: Path) -> tuple[list[Trial], list[Any]]:
    """Return the trials and the runs of a search that is interrupted after each of `stops` runs."""
    made = list[Any]()
    for stop in (*stops, 10**6):
        objective, study = Pretended(stop), open_study(path, {"of": 1})
        if stop < 10**6:
            with pytest.raises(KeyboardInterrupt):
                search(study, objective, plan, SILENT, SILENT)
        else:
            found = search(study, objective, plan, SILENT, SILENT)
        made += objective.made
    return found, made


def test_interrupted_anywhere_and_resumed_it_is_the_same_search(searched: Any, tmp_path: Path) -> None:
    """It is interrupted in the control, in a trial's first run, between runs, after halving, and after the random trials."""
    _, whole, _, expected, _ = searched
    found, made = in_pieces(replace(plan_of(24), fixed=HELD), (0, 1, 4, 1, 4, 5, 3), tmp_path / "study.db")
    assert made == whole.made[: len(made)], "no run is made twice"
    assert len(made) == 24
    assert outcomes_of(found)[:-1] == outcomes_of(expected)[: len(found) - 1]
    with pytest.raises(UserError, match=r"expected .*of"):
        open_study(tmp_path / "study.db", {"of": 2})


def test_the_default_is_tried_next_to_another_control(tmp_path: Path) -> None:
    control = CONTROL_RECIPE.changed({"step_size": 0.6})  # a rival by which the default is eliminated
    default = filled(default_recipe("hmc").changed({"step_size": 0.3}), LONG)
    plan = replace(plan_of(12), control=control, default=default)
    study, objective = study_in_memory(), Pretended()
    found = search(study, objective, plan, SILENT, SILENT)
    assert [t.recipe for t in found[:2]] == [control, default]
    assert [len(t.cells) for t in found[:2]] == [4, 1]
    known = [t.params["step_size"] for t in study.get_trials(deepcopy=False)]
    assert known[:2] == [0.6, 0.3], "the model of proposals knows both"
    pieces, made = in_pieces(plan, (0, 2, 2, 0, 3), tmp_path / "pieces.db")
    assert (outcomes_of(pieces), made) == (outcomes_of(found), objective.made)
    report = to_markdown(plan, UNKNOWN, found, validate(study, Pretended(), plan, 2, UNKNOWN, SILENT), "")
    assert "| eliminated, the kernel's default |" in report


def test_a_default_that_the_budget_did_not_reach_is_tried_later() -> None:
    plan = replace(plan_of(1), default=filled(default_recipe("hmc"), LONG))
    study = study_in_memory()
    assert [t.state for t in search(study, Pretended(), plan, SILENT, SILENT)] == [CONTROL]
    later = search(study, Pretended(), replace(plan, budget=8 * LONG), SILENT, SILENT)
    assert later[1].recipe == plan.default
    assert later[1].cells


def test_a_control_with_issues_is_not_a_reference() -> None:
    """Although it seems best, proposals avoid it."""
    plan = replace(plan_of(80), control=CONTROL_RECIPE.changed({"step_size": 1.3}))
    found = search(study_in_memory(), Pretended(), plan, SILENT, SILENT)
    assert found[0].issues
    assert share_of_long(found) < 0.29, "that of proposals at random"


def test_a_larger_budget_goes_on() -> None:
    study = study_in_memory()
    before = search(study, Pretended(), plan_of(12), SILENT, SILENT)
    after = search(study, Pretended(), plan_of(20), SILENT, SILENT)
    assert outcomes_of(after)[: len(before)] == outcomes_of(before)
    assert sum(t.work for t in after) >= 20 * LONG
    assert search(study, Pretended(0), plan_of(20), SILENT, SILENT) == after, "nothing is left to do"


def test_progress_grows_to_the_budget() -> None:
    from tfgradgen.core.contracts import Progress

    class Slow(Pretended):
        def measure(self, recipe: Recipe, problem: Problem, progress_fn: Any) -> Cell:
            for done in (5, 10):
                progress_fn(Progress(done, 10, 0.5, 0.3, 0.9))
            return super().measure(recipe, problem, progress_fn)

    seen: list[Any] = []
    search(study_in_memory(), Slow(), plan_of(5), seen.append, SILENT)
    assert [p.num_done for p in seen] == sorted(p.num_done for p in seen)
    assert (seen[0].num_done, seen[-1].num_done, seen[-1].num_total) == (LONG // 2, 5 * LONG, 5 * LONG)


def test_a_run_that_breaks_off_is_an_issue_but_of_the_control_an_error() -> None:
    class Broken(Pretended):
        def measure(self, recipe: Recipe, problem: Problem, progress_fn: Any) -> Cell:
            if recipe != CONTROL_RECIPE or self.left < 100:
                raise ValueError("no such\ntensor")
            return super().measure(recipe, problem, progress_fn)

    found = search(study_in_memory(), Broken(), plan_of(8), SILENT, SILENT)
    assert [t.state for t in found[1:]] == [REJECTED] * 4
    assert found[1].cells[0].issues == ["a run failed: no such tensor"]
    with pytest.raises(UserError, match="control: expected a schedule that runs, got no such tensor; check the models"):
        search(study_in_memory(), Broken(stop=99), plan_of(8), SILENT, SILENT)


def test_fresh_seeds_are_seen_by_no_trial_and_kept(searched: Any) -> None:
    study, objective, plan, found, _ = searched
    assert all(problem.stream != FRESH for _, problem in objective.made[: sum(len(t.cells) for t in found)])
    first, again = (validate(study, each, plan, 3, UNKNOWN, SILENT) for each in (Pretended(), Pretended(0)))
    assert first == again, "nothing is run twice"
    last = first[-1]
    assert (len(last.ours), len(last.control)) == (6, 6), "two labels, three seeds"
    assert last.gain is not None
    assert last.gain.low > 3
    assert verdict(first)[0].startswith(f"Trial {last.trial.number} gives ")


def test_an_issue_on_fresh_seeds_passes_the_candidate_over(searched: Any, tmp_path: Path) -> None:
    study, _, plan, found, _ = searched
    best, second, *_ = sorted((t for t in found if t.state == COMPLETE), key=lambda t: -t.value)
    validations = validate(
        Copied(study), Pretended(fresh_issues=lambda recipe: recipe == best.recipe), plan, 2, UNKNOWN, SILENT
    )
    assert [each.trial for each in validations] == [best, second]
    assert winner(plan, validations) == second.recipe
    validations = validate(
        Copied(study), Pretended(fresh_issues=lambda recipe: recipe != CONTROL_RECIPE), plan, 2, UNKNOWN, SILENT
    )
    assert len(validations) == MAX_CANDIDATES
    assert verdict(validations)[0].startswith("No improvement: all schedules that were validated on fresh seeds had problems")
    assert winner(plan, validations) == CONTROL_RECIPE


@pytest.mark.parametrize("num_failed", [1, 3])
def test_runs_of_the_control_that_fail_on_fresh_seeds_are_left_out(searched: Any, num_failed: int) -> None:
    """They do not end the command, whose search is done by then."""

    class Failing(Pretended):
        def measure(self, recipe: Recipe, problem: Problem, progress_fn: Any) -> Cell:
            if recipe == CONTROL_RECIPE and 2 * problem.replicate + "ab".index(problem.label) < num_failed:
                raise UserError("num_gradients: too few")
            return super().measure(recipe, problem, progress_fn)

    study, _, plan, found, _ = searched
    validations = validate(Copied(study), Failing(), plan, 2, UNKNOWN, SILENT)
    last, whole = validations[-1], validate(Copied(study), Pretended(), plan, 2, UNKNOWN, SILENT)[-1]
    report = to_markdown(plan, UNKNOWN, found, validations, "tune")
    assert "The control has problems: a run failed: num_gradients: too few." in report
    if num_failed == 1:
        assert last.gain is not None
        assert last.gain == gain(*([cell.per_1000 for cell in cells[1:]] for cells in (whole.ours, whole.control)))
        assert f"| a | 0 | {last.ours[0].per_1000:.2f} | 0.00 | - |" in report
    else:
        assert last.gain is None
        assert "it cannot be compared: 1 of 4 runs of the control did not fail" in report
        assert winner(plan, validations) == CONTROL_RECIPE


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    found = [gain(np.exp(rng.normal(np.log(1.5), 0.3, 5)), np.ones(5)) for _ in range(2000)]
    covered = np.mean([each.low < 1.5 < each.high for each in found])
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)
    null = [gain(np.exp(rng.normal(0.0, 0.3, 5)), np.ones(5)).verdict for _ in range(2000)]
    assert abs(null.count("a gain") / 2000 - 0.025) < 4 * np.sqrt(0.025 * 0.975 / 2000)


@pytest.mark.parametrize(
    ("ours", "said", "wins"),
    [
        ([2.0, 2.2, 1.9], "Trial 3 gives 2.03 times the control's ESS for the same gradients", True),
        ([0.5, 0.55, 0.5], "No improvement: trial 3 gives 0.52 times", False),
        ([1.2, 0.8, 1.1], "No significant improvement: trial 3 gives 1.02 times", False),
    ],
)
def test_the_verdict_says_plainly_whether_there_is_a_gain(ours: list[float], said: str, wins: bool) -> None:
    recipe = CONTROL_RECIPE.changed({"step_size": 0.5, "num_results": 50})
    cells = [cell_of(value) for value in ours]
    trial = Trial(3, COMPLETE, recipe, cells)
    validations = [Validation(trial, [Problem("a", FRESH, k) for k in range(3)], cells, [cell_of(1.0)] * 3, {})]
    assert verdict(validations)[0].startswith(said)
    assert winner(plan_of(3), validations) == (recipe if wins else CONTROL_RECIPE)
    assert winner(plan_of(3), []) == CONTROL_RECIPE


def test_runs_that_are_too_short_to_tell_schedules_apart_are_named() -> None:
    """A chain's effective draws are the ESS per 1000 gradients times the gradients of a run: 4 of them are 10 per 1000 here."""
    cells = (cell_of(5.0), cell_of(10.1), cell_of(99.0, "stuck"))
    few, enough, wrong = (Trial(k, COMPLETE, CONTROL_RECIPE, [cell]) for k, cell in enumerate(cells))
    (said,) = short_runs([few, wrong], LONG)
    assert said.startswith(
        "runs of 400 gradients are short: a chain of the best schedule gives 2.0 effective draws, where 4 are"
    )
    assert short_runs([few, enough], LONG) == []
    assert short_runs([wrong], LONG) == [], "nothing is known"


def test_the_report_and_the_table_list_all_trials(searched: Any) -> None:
    study, _, plan, found, _ = searched
    validations = validate(study, Pretended(), plan, 2, UNKNOWN, SILENT)
    rows = to_csv(found).splitlines()
    assert len(rows) == 1 + len(found)
    assert rows[0].startswith("trial,state,rung,per_1000,worst,")
    assert "chains 0 stuck" in next(row for row in rows if ",rejected,1," in row)
    text = to_markdown(plan, UNKNOWN, found, validations, "the command")
    assert text.splitlines()[2] == f"**{verdict(validations)[0]}**"
    assert "```\nthe command\n```\n" in text
    table = text.split("## On fresh seeds")[1].split("##")[0]
    assert table.count("\n| a | ") == table.count("\n| b | ") == 2


def test_importance_finds_the_setting_that_matters_and_the_figure_is_drawn(searched: Any) -> None:
    study, _, _, found, _ = searched
    shares = importances(study)
    assert next(iter(shares)) == "step_size"
    best = max((t for t in found if t.state == COMPLETE), key=lambda t: t.value)
    drawn, bare = (
        np.asarray(plot_search(trials_, best_, s, "goldfisch, é"))
        for trials_, best_, s in (
            (found, best, shares),
            (found[:1], None, {}),
        )
    )
    assert drawn.shape[0] > bare.shape[0], "a row for every four settings that vary"
    assert (drawn < 128).any()
    few = optuna.create_study(direction="maximize")
    assert importances(few) == {}


@pytest.mark.parametrize("kernel", TUNABLE)
def test_proposals_fit_into_a_run(kernel: str) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    proposed = [suggest(study.ask(), kernel, 1000) for _ in range(40)]
    recipes = [recipe for recipe in proposed if recipe]
    assert len(recipes) > 10
    for recipe in recipes:
        assert 1000 - num_gradients_of(recipe) >= 0, "and as many draws as fit are kept"
        assert num_gradients_of(recipe.changed({"num_results": recipe.schedule.num_results + 1})) > 1000
        assert recipe.schedule.num_results >= MIN_KEPT
        assert recipe.schedule.num_burnin_steps <= MAX_BURNIN_SHARE * recipe.schedule.num_steps + 1
        assert Recipe.of(recipe.to_dict()) == recipe
    assert len({recipe.config for recipe in recipes}) == len(recipes)


@pytest.mark.parametrize("kernel", TUNABLE)
def test_a_schedule_within_the_ranges_could_have_been_proposed(kernel: str) -> None:
    default = filled(default_recipe(kernel), 1200)
    proposed = suggest(optuna.trial.FixedTrial(coordinates(default)), kernel, 1200)
    assert proposed is not None
    if not kernel_sampler(kernel).counts_adaptation:
        assert proposed.config == default.config
        assert abs(proposed.schedule.num_burnin_steps - default.schedule.num_burnin_steps) <= 10
    assert coordinates(default.changed({"step_size": 60.0})) == {}
    untuned = coordinates(default.changed({"num_adaptation_steps": 0}))
    assert bool(untuned) == may_be_untuned(kernel)
    if untuned:
        proposed = suggest(optuna.trial.FixedTrial(untuned), kernel, 1200)
        assert proposed == default.changed({"num_adaptation_steps": 0})
        assert "target_accept_prob" not in untuned


def test_kernels_without_a_step_size_are_refused() -> None:
    with pytest.raises(UserError, match=r"kernel: expected one of mala, hmc, .*got 'elliptical_slice'"):
        check_tunable("elliptical_slice")


def test_runs_that_nothing_fits_into_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan("replica_exchange", CONTROL_RECIPE, 60, 1, 3 * LONG, 0)
    monkeypatch.setattr("tfgradgen.tuning.search.NUM_UNFIT", 5)
    said = "num_gradients: expected enough for a schedule of replica_exchange, got 60; raise it."
    with pytest.raises(UserError, match=f"{said}$"):
        search(study_in_memory(), Pretended(), plan, SILENT, SILENT)
    with pytest.raises(UserError, match=f"{said}$"):
        check_fits("replica_exchange", 60, {})
    check_fits("nuts", 1000, {"max_tree_depth": 4})
    with pytest.raises(UserError, match="of nuts, max_tree_depth=6, got 1000; raise it, or fix fewer settings"):
        check_fits("nuts", 1000, {"max_tree_depth": 6})


@pytest.mark.parametrize("fixed", [{"num_leapfrog_steps": 2}, {"adaptation": "simple", "num_leapfrog_steps": 1}])
def test_what_is_held_fixed_is_in_every_proposal(fixed: dict[str, Any]) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    recipes = [recipe for recipe in (suggest(study.ask(), "hmc", 1000, fixed) for _ in range(60)) if recipe]
    assert len(recipes) > 20
    for recipe in recipes:
        assert fixed.items() <= recipe.to_dict().items()
    assert coordinates(recipes[0], fixed)
    assert not set(coordinates(recipes[0], fixed)) & set(fixed), "nothing is proposed of it"
    assert coordinates(CONTROL_RECIPE, fixed) == {}, "it is not so"


def test_a_target_that_is_another_teaches_nothing() -> None:
    assert coordinates(default_recipe("mala"))
    assert coordinates(default_recipe("mala").changed({"class_reg": 1.0})) == {}
