"""Plots of a search: step size and acceptance along the runs, and the ESS against each setting."""

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tfgradgen.core.config import AdaptedConfig
from tfgradgen.diagnostics.figure import GREY, INK, drawable, new_figure, style, to_image
from tfgradgen.tuning.search import COMPLETE, CONTROL, ELIMINATED, REJECTED, UNFINISHED, Trial

NUM_COLUMNS, NUM_TRACES = 4, 6
PANEL_HEIGHT = 2.6  # inches
COLORS = {CONTROL: "#d55e00", COMPLETE: "#0072b2", ELIMINATED: "#56b4e9", REJECTED: "#8c8c8c", UNFINISHED: "#cc79a7"}
MARKERS = {CONTROL: "D", COMPLETE: "o", ELIMINATED: "o", REJECTED: "x", UNFINISHED: "s"}
BEST, PALE = "#009e73", "#b9dcf2"
LOG_SPAN, NUM_TICKS = 8.0, 4  # ratio of values from which a log scale is used, and its number of ticks
LEAST_VALUE, TITLE_LETTERS = 1e-3, 150  # smallest value drawn; letters in a line of the title


def importances(study: Any) -> dict[str, float]:
    """Return the importance of each setting by Optuna (PED-ANOVA; Watanabe, Bansal and Hutter 2023), largest first.

    The result is {} for too few trials.
    """
    import optuna

    in_range = optuna.create_study(direction="maximize")  # without a control outside of the search ranges
    for trial in study.get_trials(deepcopy=False):
        if trial.params and trial.value is not None:
            value = trial.value
            in_range.add_trial(optuna.create_trial(params=trial.params, distributions=trial.distributions, value=value))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = optuna.importance.get_param_importances(in_range)
        except (UserWarning, ValueError):  # too few trials
            return {}
    return {name: float(share) for name, share in found.items() if np.isfinite(share)}


def plot_search(found: Sequence[Trial], best: Trial | None, shares: Mapping[str, float], title: str) -> Image.Image:
    """Plot traces of the control, `best` and the next best schedules; importances; and each setting that varied."""
    settings = _varied(found)
    num_rows = 1 + -(-len(settings) // NUM_COLUMNS)
    height = num_rows * PANEL_HEIGHT + 1.0
    figure = new_figure(height)
    top, bottom = 1 - 0.75 / height, 0.5 / height
    figure.subplots_adjust(left=0.05, right=0.985, bottom=bottom, top=top, wspace=0.24, hspace=0.5)
    lines = textwrap.fill(drawable(title), TITLE_LETTERS, max_lines=2, placeholder=" ...")
    figure.text(0.05, 1 - 0.1 / height, lines, color=INK, size=12, va="top", parse_math=False)
    panels = figure.subplots(num_rows, NUM_COLUMNS, squeeze=False)
    for axes in panels.reshape(-1):
        style(axes)
    traced = _traced(found, best)
    for axes, name in zip(panels[0], ("step_size", "accept_rate"), strict=False):
        _draw_traces(axes, traced, best, name)
    _draw_importances(panels[0][2], shares)
    _draw_legend(panels[0][3], found, best)
    below = panels[1:].reshape(-1)
    for axes, (name, points) in zip(below, settings.items(), strict=False):
        _draw_setting(axes, name, points, best)
    for axes in below[len(settings) :]:
        axes.set_axis_off()
    return to_image(figure)


def _varied(found: Sequence[Trial]) -> dict[str, list[tuple[Any, Trial]]]:
    """Return, for each setting that varied, its value in every trial that was run and uses it."""
    points: dict[str, list[tuple[Any, Trial]]] = {}
    for trial in found:
        values = trial.recipe.to_dict() if trial.recipe and trial.cells else {}
        idle = ("kernel", *AdaptedConfig.idle.get(values.get("adaptation", ""), ()))
        for name, value in values.items():
            if name not in idle:
                points.setdefault(name, []).append((value, trial))
    return {name: pairs for name, pairs in points.items() if len({value for value, _ in pairs}) > 1}


def _traced(found: Sequence[Trial], best: Trial | None) -> list[Trial]:
    control = [trial for trial in found if trial.state == CONTROL]
    others = [t for t in found if t.state in (COMPLETE, ELIMINATED) and t is not best and t.is_sound]
    others = sorted(others, key=lambda trial: -trial.value)
    chosen = [*control, *([best] if best else []), *others]
    return [trial for trial in chosen if trial.cells][:NUM_TRACES]


def _name(trial: Trial, best: Trial | None) -> str:
    if trial.state == CONTROL:
        return "control"
    return f"trial {trial.number} (best)" if best and trial.number == best.number else f"trial {trial.number}"


def _draw_traces(axes: Any, traced: Sequence[Trial], best: Trial | None, name: str) -> None:
    for trial in traced:
        trace = trial.cells[0].trace
        is_best = best is not None and trial.number == best.number
        color = BEST if is_best else COLORS[trial.state]
        width = 2.0 if is_best or trial.state == CONTROL else 0.8
        values = np.where(np.asarray(trace[name]) > 0, trace[name], np.nan) if name == "step_size" else trace[name]
        axes.plot(trace["gradients"], values, color=color, linewidth=width, alpha=0.9, label=_name(trial, best))
    if name == "step_size":
        _scale(axes, "y", [step for trial in traced for step in trial.cells[0].trace[name] if step > 0])
    axes.set_xlabel("gradients per chain", color=INK, size=9)
    about = {"step_size": "step size", "accept_rate": "mean acceptance"}
    axes.set_title(f"{about[name]} (first run)", color=INK, size=10, loc="left")


def _draw_importances(axes: Any, shares: Mapping[str, float]) -> None:
    axes.set_title("importance, PED-ANOVA", color=INK, size=10, loc="left")
    if not shares:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "too few trials", transform=axes.transAxes, ha="center", color=GREY)
        return
    names = list(shares)[::-1]
    axes.barh(range(len(names)), [shares[name] for name in names], color=PALE)
    axes.set_yticks([])
    for row, name in enumerate(names):
        axes.text(0.01, row, name, transform=axes.get_yaxis_transform(), va="center", size=7.5, color=INK)


def _draw_legend(axes: Any, found: Sequence[Trial], best: Trial | None) -> None:
    axes.set_axis_off()
    states = dict.fromkeys(trial.state for trial in found if trial.cells)
    for state in states:
        axes.scatter([], [], color=COLORS[state], marker=MARKERS[state], label=state)
    if best:
        axes.scatter([], [], color=BEST, marker="*", s=90, label=f"trial {best.number}, best of the search")
    axes.legend(loc="center left", frameon=False, fontsize=9)


def _scale(axes: Any, direction: str, values: Sequence[float]) -> None:
    """Use a log scale with a few ticks in `direction` (x or y) if `values` have a wide range."""
    low, high = min(values, default=1.0), max(values, default=1.0)
    if low > 0 and high / low > LOG_SPAN:
        axes.set(**{f"{direction}scale": "log"})
        axes.minorticks_off()
        ticks = np.geomspace(low, high, NUM_TICKS)
        getattr(axes, f"{direction}axis").set_ticks(ticks, [f"{tick:.2g}" if tick < 100 else f"{tick:.0f}" for tick in ticks])


def _draw_setting(axes: Any, name: str, points: Sequence[tuple[Any, Trial]], best: Trial | None) -> None:
    """Plot the ESS per 1000 gradients against one setting, one mark per trial."""
    is_text = any(isinstance(value, str) for value, _ in points)
    levels = sorted({value for value, _ in points}) if is_text else []
    for value, trial in points:
        is_best = best is not None and trial.number == best.number
        color, marker = (BEST, "*") if is_best else (COLORS[trial.state], MARKERS[trial.state])
        position = levels.index(value) if is_text else value
        axes.scatter(
            position,
            max(trial.value, LEAST_VALUE),
            color=color,
            marker=marker,
            s=90 if is_best else 22,
            zorder=3 if is_best else 2,
        )
    if is_text:
        axes.set_xticks(range(len(levels)), levels)
        axes.set_xlim(-0.5, len(levels) - 0.5)
    else:
        _scale(axes, "x", [value for value, _ in points])
    _scale(axes, "y", [max(trial.value, LEAST_VALUE) for _, trial in points])
    axes.set_xlabel(name, color=INK, size=9)
    axes.set_ylabel("ESS per 1000 gradients", color=INK, size=8)
