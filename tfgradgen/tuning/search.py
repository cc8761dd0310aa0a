"""The search: a model proposes schedules, which are compared with a control on a growing number of runs.

The model is Optuna's tree-structured Parzen estimator (Bergstra et al. 2011). Asynchronous successive halving (Li et al. 2020)
decides which schedules get more runs: the better half of those with equally many runs continues. Rungs differ in the number of
runs (labels and seeds), not in their length. A shorter chain would be another problem, with more expensive burn-in and less
visible slow mixing, while a mean over fewer runs only has more noise. All schedules have the same problems in the same order,
with the same starts and seeds, so that common effects cancel.

The control comes first, then the kernel's default if it differs. If they are within the search ranges, the model knows them as
trials, and proposes near the better one. The rule of halving is that of Optuna's `SuccessiveHalvingPruner`, applied to the runs
themselves. Optuna's own would count an interrupted and resumed trial twice, and a resumed search would not be the same.

The objective is the mean over problems of the log of the ESS per 1000 gradients. A schedule with an issue in any run, or in all
runs together (`objective.issues_of`), is rejected: its value is `REJECTED_VALUE`, so that the model avoids its neighbourhood.
R-hat and ESS are not issues, because longer runs improve them for every schedule; how fast they do is the objective.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfgradgen.core.backend import seed_of
from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.contracts import Progress, ProgressFn
from tfgradgen.core.files import finite
from tfgradgen.core.parsing import parsing
from tfgradgen.core.text import printable
from tfgradgen.io.store import check_same
from tfgradgen.mcmc.budget import CELL_ERRORS
from tfgradgen.mcmc.recipe import Recipe
from tfgradgen.tuning.objective import SEARCH, Cell, Objective, Problem, cell_of, failed, issues_of, often_diverged
from tfgradgen.tuning.space import NUM_UNFIT, coordinates, suggest, unfit

STUDY = "tune"
NUM_RANDOM = 6  # random trials before the model proposes, including the given ones
HALVING = 2
REJECTED_VALUE = float(np.log(1e-3))
CONTROL, COMPLETE, ELIMINATED, REJECTED, UNFINISHED = "control", "complete", "eliminated", "rejected", "interrupted"
STATES = (CONTROL, COMPLETE, ELIMINATED, REJECTED, UNFINISHED)
OLD_STATES = {"whole": COMPLETE, "dropped": ELIMINATED, "faulty": REJECTED}  # in studies of older versions
DEFAULT, GIVEN = "default", "given"


@dataclass(frozen=True)
class Plan:
    """The settings of a search.

    Attributes:
      kernel: A key of `SAMPLERS`.
      control: The schedule to beat, filled (see `space.filled`).
      num_gradients: Gradients of each chain in one run.
      num_seeds: Runs of each label.
      budget: Gradients per chain of all trials together.
      seed: Seed of the search.
      default: The kernel's own schedule, filled; None if it is the control or does not fit into a run.
      fixed: Settings that all proposals have.
    """

    kernel: str
    control: Recipe
    num_gradients: int
    num_seeds: int
    budget: float
    seed: int
    default: Recipe | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def given(self) -> dict[str, Recipe]:
        """The schedules that are not proposed by the model, in the order of their trials."""
        return {CONTROL: self.control, **({DEFAULT: self.default} if self.default else {})}


class Trial(NamedTuple):
    """A schedule and its runs.

    Attributes:
      number: Number of the trial.
      state: CONTROL, COMPLETE (all its runs are done), ELIMINATED (by halving or at the end of the budget), REJECTED (it has an
        issue) or UNFINISHED.
      recipe: The schedule; None if the proposal did not fit into a run.
      cells: Its runs.
    """

    number: int
    state: str
    recipe: Recipe | None
    cells: list[Cell]

    @property
    def issues(self) -> list[str]:
        if self.recipe is None:
            return ["its transitions are too expensive for a run of this length"]
        return issues_of(self.recipe, self.cells)

    @property
    def is_sound(self) -> bool:
        return bool(self.cells) and not self.issues

    @property
    def value(self) -> float:
        """ESS per 1000 gradients, the geometric mean over its runs; 0 without runs."""
        return geometric_mean(self.cells)

    @property
    def log_value(self) -> float:
        """The objective of the search."""
        return float(np.log(self.value))

    @property
    def settled(self) -> Recipe | None:
        """`recipe` with the median number of kept draws of its runs, which for some kernels is known only after a run."""
        if self.recipe is None or not self.cells:
            return self.recipe
        return self.recipe.changed({"num_results": int(np.median([cell.num_results for cell in self.cells]))})

    @property
    def work(self) -> float:
        return sum(cell.work for cell in self.cells)


def geometric_mean(cells: Sequence[Cell]) -> float:
    """Return the geometric mean of the ESS per 1000 gradients; 0 if a run failed or there is none."""
    if not cells or any(cell.per_1000 == 0 for cell in cells):
        return 0.0
    return float(np.exp(np.mean([np.log(cell.per_1000) for cell in cells])))


def open_study(path: Path, identity: Mapping[str, Any]) -> Any:
    """Open or create the Optuna study in the SQLite file `path`.

    Raises:
      UserError: It belongs to another search, or is damaged.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    kinds = (optuna.exceptions.OptunaError, SQLAlchemyError, AssertionError)  # Optuna asserts on other databases
    with parsing(f"resume {path}", "the study of a search", "choose another --out", *kinds):
        study = optuna.create_study(
            storage=optuna.storages.RDBStorage(f"sqlite:///{STUDY}", engine_kwargs={"creator": lambda: _connected(path)}),
            study_name=STUDY,
            direction="maximize",
            load_if_exists=True,
        )
        theirs = study.user_attrs.get("identity")
        if [direction.name for direction in study.directions] != ["MAXIMIZE"] or not isinstance(theirs, dict | None):
            raise ValueError("a study of another kind")
        trials(study)
    if theirs is None:
        study.set_user_attr("identity", finite(dict(identity)))
    else:
        check_same(identity, theirs, path.parent, "choose another --out")
    return study


def _connected(path: Path) -> sqlite3.Connection:
    """Open the database by its path: in a URL, the characters `?`, `%` and `{` have a meaning."""
    return sqlite3.connect(path, check_same_thread=False)


def trials(study: Any) -> list[Trial]:
    """Return the trials of `study`; of an interrupted and resumed trial only the second."""
    import optuna

    found = []
    for trial in study.get_trials(deepcopy=False):
        attrs, is_gone = trial.user_attrs, trial.state == optuna.trial.TrialState.FAIL
        if is_gone or not ("state" in attrs or attrs.get("cells")):
            continue
        state = attrs.get("state", UNFINISHED)
        state = OLD_STATES.get(state, state)
        if state not in STATES or attrs.get(GIVEN, CONTROL) not in (CONTROL, DEFAULT):
            raise ValueError("a trial of another kind")
        if not isinstance(attrs.get("cells", []), list):
            raise ValueError("a trial without a list of runs")
        try:
            recipe = Recipe.of(attrs["recipe"]) if "recipe" in attrs else None
        except UserError as error:
            raise ValueError(f"a trial with {error}") from error
        cells = [cell_of(cell) for cell in attrs.get("cells", [])]
        found.append(Trial(trial.number, state, recipe, cells))
    return found


def search(
    study: Any, objective: Objective, plan: Plan, progress_fn: ProgressFn, say_fn: Callable[[Trial, float], None]
) -> list[Trial]:
    """Continue `study` until its trials have used the budget, and return all of them.

    Args:
      study: The Optuna study.
      objective: The problems, and how a schedule is measured on them.
      plan: The settings.
      progress_fn: Called during every run, with the gradients used so far and the budget.
      say_fn: Called with each finished trial, and the gradients used so far.

    Raises:
      UserError: The control cannot be run.
    """
    import optuna

    waiting, running, gone = (getattr(optuna.trial.TrialState, name) for name in ("WAITING", "RUNNING", "FAIL"))
    for trial in study.get_trials(deepcopy=False, states=(running,)):
        # It was interrupted. It is resumed first, with the runs that it has.
        attrs = {name: value for name, value in trial.user_attrs.items() if name in (GIVEN, "cells")}
        study.enqueue_trial(
            coordinates(plan.given[attrs[GIVEN]], plan.fixed) if GIVEN in attrs else trial.params, user_attrs=attrs
        )
        study.tell(trial.number, state=gone)
    most = NUM_UNFIT + plan.budget / plan.num_gradients
    spent = sum(trial.work for trial in trials(study))
    while True:
        if not study.get_trials(deepcopy=False, states=(waiting,)):
            _call_given(study, plan, spent)
        if spent >= plan.budget and not study.get_trials(deepcopy=False, states=(waiting,)):
            return trials(study)
        # Each trial has its own seed, so that a resumed search continues as if it had not been interrupted.
        number = sum(trial.state not in (gone, waiting) for trial in study.get_trials(deepcopy=False))
        if number > most:
            raise unfit(plan.kernel, plan.num_gradients, plan.fixed)
        study.sampler = optuna.samplers.TPESampler(seed=seed_of(plan.seed, number) % 2**32, n_startup_trials=NUM_RANDOM)
        asked = study.ask()
        asked.set_user_attr("state", _run(asked, study, objective, plan, spent, progress_fn))
        known = trials(study)
        trial = next(trial for trial in known if trial.number == asked.number)
        spent = sum(trial.work for trial in known)
        if trial.state in (CONTROL, COMPLETE) and trial.is_sound:
            study.tell(asked, trial.log_value)
        else:
            # TPE ranks pruned trials by their last reported step, so issues are reported at step 1.
            if trial.issues:
                asked.report(REJECTED_VALUE, 1)
            elif trial.cells:
                asked.report(trial.log_value, len(trial.cells))
            study.tell(asked, state=optuna.trial.TrialState.PRUNED)
        say_fn(trial, spent)


def _call_given(study: Any, plan: Plan, spent: float) -> None:
    """Enqueue the next given schedule before proposals: the control in any case, others while budget is left."""
    known = {trial.user_attrs.get(GIVEN) for trial in study.get_trials(deepcopy=False)}
    for name, recipe in plan.given.items():
        if name not in known:
            if name == CONTROL or spent < plan.budget:
                study.enqueue_trial(coordinates(recipe, plan.fixed), user_attrs={GIVEN: name})
            return


def _run(trial: Any, study: Any, objective: Objective, plan: Plan, spent: float, progress_fn: ProgressFn) -> str:
    """Run a trial problem by problem until all are done, or it is eliminated or rejected; return its state."""
    is_control = trial.user_attrs.get(GIVEN) == CONTROL
    recipe = _recipe_of(trial, plan)
    if recipe is None:
        return REJECTED
    trial.set_user_attr("recipe", recipe.to_dict())
    cells = [cell_of(cell) for cell in trial.user_attrs.get("cells", [])]
    before = spent - sum(cell.work for cell in cells)
    rivals = [other for other in trials(study) if other.number != trial.number]
    problems, expected = objective.problems(SEARCH, plan.num_seeds), len(cells)
    for number, problem in enumerate(problems, 1):
        if number > expected:  # nothing is decided by halving before these are done
            expected = len(problems) if is_control else min(len(problems), 1 << (number - 1).bit_length())
            objective.expect([(recipe, later) for later in problems[number - 1 : expected]])
        if number > len(cells):
            done = before + sum(cell.work for cell in cells)
            if done >= plan.budget and not is_control:
                return ELIMINATED
            show = part_of(progress_fn, done, plan.num_gradients, plan.budget)
            cells.append(measured(objective, recipe, problem, plan.num_gradients, show, must_run=recipe == plan.control))
            trial.set_user_attr("cells", [cell._asdict() for cell in cells])
        if is_control:
            continue
        if cells[number - 1].issues or often_diverged(cells[:number]):
            return REJECTED
        if number < len(problems) and not goes_on(cells[:number], rivals):
            return ELIMINATED
    if is_control:
        return CONTROL
    return REJECTED if issues_of(recipe, cells) else COMPLETE


def _recipe_of(trial: Any, plan: Plan) -> Recipe | None:
    """Return the given schedule of a trial, or else a proposal; None if the proposal does not fit into a run."""
    given = plan.given.get(trial.user_attrs.get(GIVEN, ""))
    if given and not coordinates(given, plan.fixed):
        return given
    proposed = suggest(trial, plan.kernel, plan.num_gradients, plan.fixed)
    return given or proposed


def goes_on(cells: Sequence[Cell], rivals: Sequence[Trial]) -> bool:
    """Return whether a trial with these runs gets another one.

    After 1, 2, 4, ... runs it must be in the better half of all trials with as many runs, itself included. The first such trial
    always is.
    """
    count = len(cells)
    if count & (count - 1):
        return True
    others = [
        0.0 if any(c.issues for c in r.cells[:count]) else geometric_mean(r.cells[:count])
        for r in rivals
        if len(r.cells) >= count
    ]
    value = geometric_mean(cells)
    num_kept = max((len(others) + 1) // HALVING, 1)
    return sum(other > value for other in others) < num_kept


def part_of(progress_fn: ProgressFn, done: float, num_gradients: float, total: float) -> ProgressFn:
    """Convert the progress of one run of `num_gradients` to that of all, of which `done` gradients are done."""

    def show(progress: Progress) -> None:
        now = done + num_gradients * progress.num_done / progress.num_total
        progress_fn(progress._replace(num_done=min(int(now), int(total)), num_total=int(total)))

    return show


def measured(
    objective: Objective, recipe: Recipe, problem: Problem, num_gradients: float, progress_fn: ProgressFn, *, must_run: bool
) -> Cell:
    """Return the cell of `recipe` at `problem`. A run that fails rejects the recipe, or is an error if it `must_run`."""
    try:
        return objective.measure(recipe, problem, progress_fn)
    except CELL_ERRORS as error:
        reason = printable(" ".join(str(error).split()), 200).rstrip(".")
        if must_run and isinstance(error, UserError):
            raise
        if must_run:
            remedy = "check the models with `check`, or give another control"
            raise fail("control", "a schedule that runs", reason, remedy) from error
        return failed(f"a run failed: {reason}", num_gradients)
