"""Validation of the best schedules on fresh seeds: the gain over the control, with its confidence interval."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from tfgradgen.core.contracts import ProgressFn
from tfgradgen.core.parsing import parsing
from tfgradgen.diagnostics.issues import MIN_ESS_OF_CHAIN
from tfgradgen.mcmc.recipe import Recipe
from tfgradgen.tuning.guard import Difference, Exact, bias_issues, differences, exact_from, exact_of
from tfgradgen.tuning.objective import EXACT, FRESH, SEARCH, Cell, Objective, Problem, cell_of, issues_of
from tfgradgen.tuning.search import COMPLETE, CONTROL, Plan, Trial, measured, part_of, trials

LEVEL = 0.95
MAX_CANDIDATES = 3  # most schedules that are validated, until one has no issue


class Gain(NamedTuple):
    """The gain of a schedule over the control.

    Attributes:
      ratio: Ratio of the ESS for the same gradients; above 1 is better.
      low: Lower end of its 95 % confidence interval.
      high: Upper end of the interval.
      num_pairs: Number of pairs of runs.
    """

    ratio: float
    low: float
    high: float
    num_pairs: int

    @property
    def verdict(self) -> str:
        if self.low > 1:
            return "a gain"
        return "a loss" if self.high < 1 else "no gain"


def gain(ours: Sequence[float], control: Sequence[float]) -> Gain:
    """Return the gain from at least two pairs of values > 0, one pair for each label and seed.

    The logs of the ratios are assumed normal with a common mean. The gain is the geometric mean of the ratios, with Student's
    t interval. Pairing removes the common effects of label, seed and start.
    """
    logs = np.log(np.asarray(ours) / np.asarray(control))
    middle = float(logs.mean())
    margin = float(student.ppf(0.5 + LEVEL / 2, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs)))
    return Gain(float(np.exp(middle)), float(np.exp(middle - margin)), float(np.exp(middle + margin)), len(logs))


class Validation(NamedTuple):
    """The validation of a candidate on fresh seeds.

    Attributes:
      trial: The trial of the candidate.
      problems: The problems.
      ours: Its cells, one per problem.
      control: The cells of the control.
      exact: Exact draws by label.
    """

    trial: Trial
    problems: list[Problem]
    ours: list[Cell]
    control: list[Cell]
    exact: Mapping[str, Exact]

    @property
    def issues(self) -> list[str]:
        """The issues of its runs, a bias, and whether too few runs of the control are left to compare with."""
        assert self.trial.recipe is not None
        found = [*issues_of(self.trial.recipe, self.ours), *bias_issues(self.differences(self.ours), MAX_CANDIDATES)]
        if len(self.pairs) < 2:
            found.append(f"it cannot be compared: {len(self.pairs)} of {len(self.control)} runs of the control did not fail")
        return found

    @property
    def pairs(self) -> list[tuple[Cell, Cell]]:
        """The cells of candidate and control at each problem where the control did not fail."""
        return [pair for pair in zip(self.ours, self.control, strict=True) if pair[1].per_1000 > 0]

    def control_issues(self, control: Recipe) -> list[str]:
        """Return the issues of the control's runs, and a bias."""
        return [*issues_of(control, self.control), *bias_issues(self.differences(self.control), 1)]

    def differences(self, cells: Sequence[Cell]) -> list[Difference]:
        """Return the differences of `cells` from exact draws."""
        return differences(self.problems, cells, self.exact)

    @property
    def gain(self) -> Gain | None:
        """The gain over the control; None if the candidate has an issue."""
        if self.issues:
            return None
        return gain(*([cell.per_1000 for cell in cells] for cells in zip(*self.pairs, strict=True)))


def exact_draws(study: Any, objective: Objective) -> dict[str, Exact]:
    """Return exact draws by label, which are cached in the study."""
    found = {}
    for number, label in enumerate(objective.labels):
        name = f"exact/{number}"
        if name not in study.user_attrs:
            run = replace(objective.run, seed=objective.seed_at(Problem(label, EXACT, 0)))
            study.set_user_attr(name, exact_of(objective.posteriors[label], run)._asdict())
        with parsing("study", "valid exact draws", "choose another --out"):
            found[label] = exact_from(study.user_attrs[name])
    return found


def issues_of_control(control: Trial, exact: Mapping[str, Exact]) -> list[str]:
    """Return the issues of the control's runs in the search, and a bias."""
    labels = list(exact)
    problems = [Problem(labels[k % len(labels)], SEARCH, k // len(labels)) for k in range(len(control.cells))]
    return [*control.issues, *bias_issues(differences(problems, control.cells, exact), 1)]


def short_runs(found: Sequence[Trial], num_gradients: float) -> list[str]:
    """Return a warning if even the best runs are too short to tell schedules apart; otherwise [].

    Chains that stay near their starts count as about one draw each, whatever the schedule.
    """
    best = max((trial.value for trial in found if trial.is_sound), default=np.inf) * num_gradients / 1000
    if best >= MIN_ESS_OF_CHAIN:
        return []
    return [
        f"runs of {num_gradients:g} gradients are short: a chain of the best schedule gives {best:.1f} effective draws, where "
        f"{MIN_ESS_OF_CHAIN:g} are needed to tell schedules apart; raise --num_gradients, and --budget with it"
    ]


def validate(
    study: Any, objective: Objective, plan: Plan, num_fresh: int, exact: Mapping[str, Exact], progress_fn: ProgressFn
) -> list[Validation]:
    """Compare the best schedules with the control on fresh seeds, best first, until one has no issue.

    A bias is an issue (see `guard`). Only issues decide whether a candidate is skipped, so the reported gain is not inflated by
    selection (winner's curse). Runs are cached in the study.

    Returns:
      All validations; [] if no schedule without issues is better than the control.
    """
    found = trials(study)
    control = next(trial for trial in found if trial.state == CONTROL)
    least = 0.0 if issues_of_control(control, exact) else control.value
    able = [trial for trial in found if trial.state == COMPLETE and trial.is_sound and trial.value > least]
    problems, validations = objective.problems(FRESH, num_fresh), list[Validation]()

    runs = [0]

    def name_of(trial: Trial, problem: Problem) -> str:
        return f"fresh/{trial.number}/{objective.labels.index(problem.label)}/{problem.replicate}"

    def fresh(trial: Trial, problem: Problem) -> Cell:
        done, total = (count * plan.num_gradients for count in (runs[0], (2 + len(validations)) * len(problems)))
        runs[0] += 1
        name = name_of(trial, problem)
        if name not in study.user_attrs:
            assert trial.recipe is not None
            show = part_of(progress_fn, done, plan.num_gradients, total)
            # After a whole search, a control that fails on one seed is reported; it must not end the command.
            cell = measured(objective, trial.recipe, problem, plan.num_gradients, show, must_run=False)
            study.set_user_attr(name, cell._asdict())
        with parsing("study", "valid runs on fresh seeds", "choose another --out"):
            return cell_of(study.user_attrs[name])

    for candidate in sorted(able, key=lambda trial: -trial.value)[:MAX_CANDIDATES]:
        wanted = [(trial, problem) for problem in problems for trial in (candidate, control)]
        missing = [pair for pair in wanted if name_of(*pair) not in study.user_attrs]
        objective.expect([(trial.recipe, problem) for trial, problem in missing if trial.recipe is not None])
        pairs = [(fresh(candidate, problem), fresh(control, problem)) for problem in problems]
        validations.append(Validation(candidate, problems, [ours for ours, _ in pairs], [theirs for _, theirs in pairs], exact))
        if not validations[-1].issues:
            break
    return validations
