"""The search: schedules proposed by a model of what was seen, on as many runs as they are worth, against a control.

Proposals are of the tree-structured Parzen estimator (Bergstra et al. 2011), Optuna's. Who is worth another run is decided by
asynchronous successive halving (Li et al. 2020): of the schedules that have been run so often, the better half goes on. What
grows from rung to rung is the number of runs (labels and seeds), not their length: a shorter chain is another problem, in which
burn-in costs more and slow mixing shows less, while a mean over fewer runs is the same figure with more noise. All schedules
see the same places in the same order, starts and seeds included, so that what a place does to them all cancels. First come
the control and, where that is another, the kernel's default; where they lie in the ranges they are points like any other to the
model, so that it proposes around the better of them, where a good schedule most likely is. The rule of halving is Optuna's own
(`SuccessiveHalvingPruner`), but looks at the runs themselves: Optuna's counts a trial that was interrupted and taken up again
twice, and a search would not go on as if it had not been.

The objective is the mean over places of the log of the effective draws of 1000 gradients. A schedule with a fault in any run,
or with all its runs (`bench.faults_of`), is out: it counts as `FAULT_VALUE`, so that its neighbourhood is left. R-hat and the
number of effective draws are no such faults: every schedule mends them with longer runs, and how fast is the objective.
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
from tfgradgen.tuning.bench import SEARCH, Bench, Cell, Place, cell_of, failed, faults_of
from tfgradgen.tuning.space import NUM_UNFIT, coordinates, suggest, unfit

STUDY = "tune"
NUM_RANDOM = 6  # trials before the model of them decides, those given among them
HALVING = 2
FAULT_VALUE = float(np.log(1e-3))
CONTROL, WHOLE, DROPPED, FAULTY, UNFINISHED = "control", "whole", "dropped", "faulty", "interrupted"
STATES = (CONTROL, WHOLE, DROPPED, FAULTY, UNFINISHED)
DEFAULT, GIVEN = "default", "given"


@dataclass(frozen=True)
class Plan:
    """What is searched. kernel: a key of `SAMPLERS`. control: the schedule to beat, filled (see `space.filled`).
    num_gradients: of each chain of one run. num_seeds: runs of each label. budget: gradients a chain of all trials. default:
    the kernel's own schedule, filled; None where it is the control or does not fit into a run. fixed: settings that all
    proposals have."""

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
        """The schedules that nobody proposes, in the order of their trials."""
        return {CONTROL: self.control, **({DEFAULT: self.default} if self.default else {})}


class Trial(NamedTuple):
    """A schedule and what is known of it.

    recipe: None where the proposal did not fit into a run. state: CONTROL, WHOLE (all its runs are done), DROPPED by halving or
    at the end of the budget, FAULTY or UNFINISHED.
    """

    number: int
    state: str
    recipe: Recipe | None
    cells: list[Cell]

    @property
    def faults(self) -> list[str]:
        if self.recipe is None:
            return ["its transitions are too dear for a run of this length"]
        return faults_of(self.recipe, self.cells)

    @property
    def is_sound(self) -> bool:
        return bool(self.cells) and not self.faults

    @property
    def value(self) -> float:
        """Effective draws of 1000 gradients, the geometric mean over its runs; 0 where it has none."""
        return geometric_mean(self.cells)

    @property
    def log_value(self) -> float:
        """What the search maximizes."""
        return float(np.log(self.value))

    @property
    def settled(self) -> Recipe | None:
        """`recipe` with as many kept draws as its runs had: of some kernels what a transition takes is known only then."""
        if self.recipe is None or not self.cells:
            return self.recipe
        return self.recipe.changed({"num_results": int(np.median([cell.num_results for cell in self.cells]))})

    @property
    def work(self) -> float:
        return sum(cell.work for cell in self.cells)


def geometric_mean(cells: Sequence[Cell]) -> float:
    """Of the effective draws of 1000 gradients; 0 where a run broke off, or there is none."""
    if not cells or any(cell.per_1000 == 0 for cell in cells):
        return 0.0
    return float(np.exp(np.mean([np.log(cell.per_1000) for cell in cells])))


def open_study(path: Path, identity: Mapping[str, Any]) -> Any:
    """The Optuna study in the SQLite file `path`, a new one where there is none.

    Raises:
      UserError: it is of another search, or damaged.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    kinds = (optuna.exceptions.OptunaError, SQLAlchemyError, AssertionError)  # the last is Optuna's, of a foreign database
    with parsing(f"resume {path}", "a search's study", "choose another --out", *kinds):
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
        check_same(identity, theirs, path.parent)
    return study


def _connected(path: Path) -> sqlite3.Connection:
    """The database itself: of a URL, `?`, `%` or `{` in the path would not be the file's name."""
    return sqlite3.connect(path, check_same_thread=False)


def trials(study: Any) -> list[Trial]:
    """Those of `study`; of one that was interrupted and taken up again only the second."""
    import optuna

    found = []
    for trial in study.get_trials(deepcopy=False):
        attrs, is_gone = trial.user_attrs, trial.state == optuna.trial.TrialState.FAIL
        if is_gone or not ("state" in attrs or attrs.get("cells")):
            continue
        if attrs.get("state", UNFINISHED) not in STATES or attrs.get(GIVEN, CONTROL) not in (CONTROL, DEFAULT):
            raise ValueError("a trial of another kind")
        if not isinstance(attrs.get("cells", []), list):
            raise ValueError("a trial without a list of runs")
        try:
            recipe = Recipe.of(attrs["recipe"]) if "recipe" in attrs else None
        except UserError as error:
            raise ValueError(f"a trial with {error}") from error
        cells = [cell_of(cell) for cell in attrs.get("cells", [])]
        found.append(Trial(trial.number, attrs.get("state", UNFINISHED), recipe, cells))
    return found


def search(
    study: Any, bench: Bench, plan: Plan, progress_fn: ProgressFn, say_fn: Callable[[Trial, float], None]
) -> list[Trial]:
    """Goes on with `study` until its trials have spent the budget; returns all of them.

    Args:
      progress_fn: called along every run, with gradients done of the budget. say_fn: with each trial that ends, and what all
        have spent.

    Raises:
      UserError: the control cannot be run.
    """
    import optuna

    waiting, running, gone = (getattr(optuna.trial.TrialState, name) for name in ("WAITING", "RUNNING", "FAIL"))
    for trial in study.get_trials(deepcopy=False, states=(running,)):
        # It was interrupted: it comes first, with the runs that it has.
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
        # A seed for each trial, so that a search that was interrupted goes on as if it had not been.
        number = sum(trial.state not in (gone, waiting) for trial in study.get_trials(deepcopy=False))
        if number > most:
            raise unfit(plan.kernel, plan.num_gradients, plan.fixed)
        study.sampler = optuna.samplers.TPESampler(seed=seed_of(plan.seed, number) % 2**32, n_startup_trials=NUM_RANDOM)
        asked = study.ask()
        asked.set_user_attr("state", _run(asked, study, bench, plan, spent, progress_fn))
        known = trials(study)
        trial = next(trial for trial in known if trial.number == asked.number)
        spent = sum(trial.work for trial in known)
        if trial.state in (CONTROL, WHOLE) and trial.is_sound:
            study.tell(asked, trial.log_value)
        else:
            # Of trials that are out, TPE takes a later report for a better one.
            if trial.faults:
                asked.report(FAULT_VALUE, 1)
            elif trial.cells:
                asked.report(trial.log_value, len(trial.cells))
            study.tell(asked, state=optuna.trial.TrialState.PRUNED)
        say_fn(trial, spent)


def _call_given(study: Any, plan: Plan, spent: float) -> None:
    """Puts the next of the given schedules before the proposals: the control in any case, others while budget is left."""
    known = {trial.user_attrs.get(GIVEN) for trial in study.get_trials(deepcopy=False)}
    for name, recipe in plan.given.items():
        if name not in known:
            if name == CONTROL or spent < plan.budget:
                study.enqueue_trial(coordinates(recipe, plan.fixed), user_attrs={GIVEN: name})
            return


def _run(trial: Any, study: Any, bench: Bench, plan: Plan, spent: float, progress_fn: ProgressFn) -> str:
    """Runs a trial place by place, until it is whole or out; returns its state."""
    is_control = trial.user_attrs.get(GIVEN) == CONTROL
    recipe = _recipe_of(trial, plan)
    if recipe is None:
        return FAULTY
    trial.set_user_attr("recipe", recipe.to_dict())
    cells = [cell_of(cell) for cell in trial.user_attrs.get("cells", [])]
    before = spent - sum(cell.work for cell in cells)
    rivals = [other for other in trials(study) if other.number != trial.number]
    places = bench.places(SEARCH, plan.num_seeds)
    for number, place in enumerate(places, 1):
        if number > len(cells):
            done = before + sum(cell.work for cell in cells)
            if done >= plan.budget and not is_control:
                return DROPPED
            show = part_of(progress_fn, done, plan.num_gradients, plan.budget)
            cells.append(measured(bench, recipe, place, plan, show))
            trial.set_user_attr("cells", [cell._asdict() for cell in cells])
        if is_control:
            continue
        if cells[number - 1].faults:
            return FAULTY
        if number < len(places) and not goes_on(cells[:number], rivals):
            return DROPPED
    if is_control:
        return CONTROL
    return FAULTY if faults_of(recipe, cells) else WHOLE


def _recipe_of(trial: Any, plan: Plan) -> Recipe | None:
    """What is given as it is, though known to the model by its coordinates; else a proposal, None where none fits."""
    given = plan.given.get(trial.user_attrs.get(GIVEN, ""))
    if given and not coordinates(given, plan.fixed):
        return given
    proposed = suggest(trial, plan.kernel, plan.num_gradients, plan.fixed)
    return given or proposed


def goes_on(cells: Sequence[Cell], rivals: Sequence[Trial]) -> bool:
    """Whether a trial with these runs is worth another: always, but after 1, 2, 4, ... only if it is among the better half of
    all that have been run so often, itself included; the first of them is."""
    count = len(cells)
    if count & (count - 1):
        return True
    others = [
        0.0 if any(c.faults for c in r.cells[:count]) else geometric_mean(r.cells[:count])
        for r in rivals
        if len(r.cells) >= count
    ]
    value = geometric_mean(cells)
    num_kept = max((len(others) + 1) // HALVING, 1)
    return sum(other > value for other in others) < num_kept


def part_of(progress_fn: ProgressFn, done: float, num_gradients: float, total: float) -> ProgressFn:
    """Turns the progress of one run of `num_gradients` into that of the whole, of which so much is `done`."""

    def show(progress: Progress) -> None:
        now = done + num_gradients * progress.num_done / progress.num_total
        progress_fn(progress._replace(num_done=min(int(now), int(total)), num_total=int(total)))

    return show


def measured(bench: Bench, recipe: Recipe, place: Place, plan: Plan, progress_fn: ProgressFn) -> Cell:
    """The cell of `recipe` at `place`; a run that breaks off is a fault, but of the control an error."""
    try:
        return bench.measure(recipe, place, progress_fn)
    except CELL_ERRORS as error:
        reason = printable(" ".join(str(error).split()), 200)
        if recipe == plan.control and isinstance(error, UserError):
            raise
        if recipe == plan.control:
            raise fail("control", "a schedule that runs", reason, "look at the models with `check`, or give another") from error
        return failed(f"it broke off: {reason}", plan.num_gradients)
