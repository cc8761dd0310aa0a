"""The report of a search: tuning.csv and report.md."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfgradgen.core.text import counted, csv_text, markdown_text
from tfgradgen.mcmc.recipe import Recipe, default_recipe, recipe_text
from tfgradgen.tuning.gain import Gain, Validation, issues_of_control
from tfgradgen.tuning.guard import Exact, guard_lines
from tfgradgen.tuning.objective import MAX_DIVERGENT_SHARE, Cell
from tfgradgen.tuning.search import CONTROL, Plan, Trial, geometric_mean
from tfgradgen.tuning.space import filled

NUM_SHOWN = 10  # trials in the table of the report


def to_csv(found: Sequence[Trial]) -> str:
    """Return tuning.csv: one row per trial with its state, number of runs (rung), means over runs, problems and settings."""
    settings = dict.fromkeys(name for trial in found if trial.recipe for name in trial.recipe.to_dict())
    columns = ["trial", "state", "rung", "per_1000", "worst", "accept_rate", "tuned_step_size", "rhat", "gradients", "seconds"]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*columns, "problems", *settings], restval="", lineterminator="\n")
    writer.writeheader()
    for trial in found:
        row: dict[str, Any] = {"trial": trial.number, "state": trial.state, "rung": len(trial.cells)}
        if trial.cells:
            row |= {
                "per_1000": f"{trial.value:.6g}",
                "worst": " ".join(dict.fromkeys(cell.worst for cell in trial.cells)),
                "accept_rate": f"{np.mean([cell.accept_rate for cell in trial.cells]):.4f}",
                "tuned_step_size": f"{np.mean([cell.step_size for cell in trial.cells]):.6g}",
                "rhat": _largest_rhat(trial.cells),
                "gradients": f"{trial.work:.1f}",
                "seconds": f"{sum(cell.seconds for cell in trial.cells):.2f}",
            }
        row["problems"] = "; ".join(trial.issues)
        row |= trial.recipe.to_dict() if trial.recipe else {}
        writer.writerow({name: csv_text(value) for name, value in row.items()})
    return stream.getvalue()


def _largest_rhat(cells: Sequence[Cell]) -> str:
    rhats = [cell.rhat for cell in cells if cell.rhat is not None]
    return f"{max(rhats):.3f}" if rhats else ""


def verdict(validations: Sequence[Validation]) -> tuple[str, Gain | None]:
    """Return the result on fresh seeds as one sentence, and its gain."""
    if not validations:
        return "No improvement: no schedule without problems was better than the control, which is kept.", None
    last = validations[-1]
    found = last.gain
    if found is None:
        return "No improvement: all schedules that were validated on fresh seeds had problems. The control is kept.", None
    times = f"{found.ratio:.2f} times the control's ESS for the same gradients"
    interval = f"95 % interval {found.low:.2f} to {found.high:.2f}, from {found.num_pairs} pairs of runs on fresh seeds"
    if found.verdict == "a gain":
        return f"Trial {last.trial.number} gives {times} ({interval}).", found
    if found.verdict == "a loss":
        return f"No improvement: trial {last.trial.number} gives {times} ({interval}). The control is kept.", found
    return (
        f"No significant improvement: trial {last.trial.number} gives {times} ({interval}, which contains 1). "
        "The control is kept.",
        found,
    )


def winner(plan: Plan, validations: Sequence[Validation]) -> Recipe:
    """Return the schedule for best.yaml: the control, unless there is a significant gain over it."""
    found = validations[-1].gain if validations else None
    best = validations[-1].trial.settled if found and found.verdict == "a gain" else None
    return best or plan.control


def best_text(plan: Plan, validations: Sequence[Validation], command: str) -> str:
    """Return best.yaml; `command` repeats the search."""
    return recipe_text(winner(plan, validations), f"{verdict(validations)[0]}\nSearched by: {command}")


def to_markdown(
    plan: Plan,
    exact: Mapping[str, Exact],
    found: Sequence[Trial],
    validations: Sequence[Validation],
    command: str,
    warnings: Sequence[str] = (),
) -> str:
    """Return report.md.

    Args:
      plan: The search.
      exact: Exact draws by label.
      found: All trials.
      validations: The validations on fresh seeds.
      command: The command that repeats the search.
      warnings: Those of the checks of the models.
    """
    control = next(trial for trial in found if trial.state == CONTROL)
    states = [trial.state for trial in found]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    spent, seconds = sum(trial.work for trial in found), sum(cell.seconds for trial in found for cell in trial.cells)
    sentence, _ = verdict(validations)
    runs = f"{counted(plan.num_seeds, 'run')} per label"
    lines = [
        f"# A schedule for {plan.kernel}",
        "",
        f"**{sentence}**",
        "",
        f"Labels: {markdown_text(', '.join(exact))}. {len(found)} schedules ({counts}) used {spent:,.0f} gradients per chain "
        f"and {seconds:,.0f} s. Each run has {plan.num_gradients} gradients per chain, including burn-in and adaptation. A "
        f"schedule that is neither eliminated nor rejected gets {runs}.{_fixed(plan)} Values are the "
        "effective sample size (ESS) per 1000 gradients of all chains, for the statistic with the smallest ESS among p(class), "
        "target density and four projections of z; they are geometric means over runs. The cost of the starts, which all "
        "schedules share, is not counted. A schedule is rejected if a density is not finite, a chain is stuck, significantly "
        f"more than 1 in {1 / MAX_DIVERGENT_SHARE:.0f} of its transitions diverge, its mean acceptance differs significantly "
        "from the target, or its means on fresh seeds differ significantly from those of exact draws. A large R-hat is "
        "reported, but rejects no schedule: it is a consequence of a small ESS.",
        "",
        "![Step size and mean acceptance along the runs, the importance of the settings, and the ESS per 1000 gradients "
        "against each setting that varied](tuning.png)",
        "",
        *(["## Warnings", "", *(f"- {markdown_text(line)}" for line in warnings), ""] if warnings else []),
        "## Settings",
        "",
        *_settings_table(plan, validations),
        "",
        "## On fresh seeds",
        "",
        *(_fresh_table(plan.control, validations) or ["No schedule to compare with the control."]),
        "",
        "## Best trials of the search",
        "",
        "These values are biased upwards, because the trials were selected by them. The values on fresh seeds are not.",
        "",
        *_trials_table(plan, found, control, issues_of_control(control, exact)),
        "",
        "All trials are in tuning.csv, and in study.db for Optuna.",
        "",
        "## The best schedule",
        "",
        "```yaml",
        best_text(plan, validations, command).rstrip(),
        "```",
        "",
        "This is best.yaml. Sample with it:",
        "",
        "```",
        "python -m tfgradgen sample --label=LABEL --schedule=best.yaml",
        "```",
        "",
        "## Make this search again",
        "",
        "```",
        command,
        "```",
        "",
    ]
    return "\n".join(lines)


def _settings_table(plan: Plan, validations: Sequence[Validation]) -> list[str]:
    control = plan.control.to_dict()
    settled = validations[-1].trial.settled if validations else None
    best = settled.to_dict() if settled else {}
    head = f"trial {validations[-1].trial.number}{_origin(plan, validations[-1].trial)}" if validations else "-"
    rows = [f"| setting | control | {head} |", "|---|---|---|"]
    return rows + [
        f"| {k} | {_short(control.get(k, '-'))} | {_short(best.get(k, '-'))} |" for k in dict.fromkeys([*control, *best])
    ]


def _fixed(plan: Plan) -> str:
    values = ", ".join(f"{name} {_short(value)}" for name, value in plan.fixed.items())
    text = f" Fixed in all proposals: {values}." if values else ""
    if plan.default is None and plan.control != filled(default_recipe(plan.kernel), plan.num_gradients):
        text += " The kernel's default was not tried: it differs from the fixed values, or does not fit into a run."
    return text


def _origin(plan: Plan, trial: Trial) -> str:
    return ", the kernel's default" if trial.recipe == plan.default else ""


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _fresh_table(control: Recipe, validations: Sequence[Validation]) -> list[str]:
    if not validations:
        return []
    last = validations[-1]
    rows = [f"| label | seed | trial {last.trial.number} | control | ratio |", "|---|---|---|---|---|"]
    for problem, ours, theirs in zip(last.problems, last.ours, last.control, strict=True):
        ratio = f"{ours.per_1000 / theirs.per_1000:.2f}" if theirs.per_1000 else "-"
        rows.append(
            f"| {markdown_text(problem.label)} | {problem.replicate} | {ours.per_1000:.2f} | {theirs.per_1000:.2f} | {ratio} |"
        )
    if last.pairs:
        means = [geometric_mean(cells) for cells in zip(*last.pairs, strict=True)]
        rows.append(f"| geometric mean | | {means[0]:.2f} | {means[1]:.2f} | {means[0] / means[1]:.2f} |")
    texts = [f"Trial {each.trial.number} has problems: {markdown_text(each.issues[0])}." for each in validations if each.issues]
    wrong = last.control_issues(control)
    texts += [f"The control has problems: {markdown_text(wrong[0])}."] if wrong else []
    texts += [markdown_text(line) for line in guard_lines(last.differences(last.ours), last.exact)]
    return [*rows, *(line for text in texts for line in ("", text))]


def _trials_table(plan: Plan, found: Sequence[Trial], control: Trial, issues: Sequence[str]) -> list[str]:
    sound = sorted((t for t in found if t.is_sound and t is not control), key=lambda t: (-len(t.cells), -t.value))[:NUM_SHOWN]
    rows = [
        "| trial | runs | ESS per 1000 gradients | acceptance | step size | largest R-hat | state |",
        "|---|---|---|---|---|---|---|",
    ]
    for trial in [control, *sound]:
        accept, step = (np.mean([getattr(c, name) for c in trial.cells]) for name in ("accept_rate", "step_size"))
        figures = f"{trial.value:.2f} | {accept:.2f} | {step:.3g} | {_largest_rhat(trial.cells)}"
        rows.append(f"| {trial.number} | {len(trial.cells)} | {figures} | {trial.state}{_origin(plan, trial)} |")
    return [*rows, *(["", f"The control has problems: {markdown_text(issues[0])}."] if issues else [])]
