"""A picture of a comparison: every measure as the gradients grow, one line a method."""

from typing import Any

import numpy as np
from PIL import Image

from tfgradgen.diagnostics.figure import GREY, INK, drawable, new_figure, style, to_image
from tfgradgen.evaluation.report.catalogue import MEASURES
from tfgradgen.evaluation.report.figures import REGULARIZED, curve, final, is_regularized, summary

NUM_COLUMNS = 4
PANEL_HEIGHT, LEGEND_LINE = 2.7, 0.27  # inches
COLORS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#6a3d9a")  # told apart by the colour-blind too
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")  # their number and that of the colours share no divisor: few pairs repeat
ACROSS = ("--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)))  # of the references
DODGE, MAX_DODGE = 0.035, 0.3  # from one method's bars to the next, and from the first to the last, in checkpoints' distances
LONE_DISTANCE = 5.0  # stands for that distance where there is one checkpoint, in powers of e
MAX_LEVEL_TICKS, UPRIGHT_HEIGHT = 6, 0.35  # more numbers of gradients are written upwards; inches that this takes


def plot_curves(report: dict[str, Any]) -> Image.Image:
    """One panel a measure that has a curve: gradients a chain (log scale) against its value +- one standard error.

    References and exact draws, which spend no gradients, are lines across.
    """
    rows = report["rows"]
    measures = [m for m in MEASURES if any(v is not None for row in rows.values() for v in curve(row, m))]
    looks = _looks(rows)
    num_columns = min(NUM_COLUMNS, max(1, len(measures)))
    num_panel_rows = max(1, -(-len(measures) // num_columns))
    upright = UPRIGHT_HEIGHT if len(report["checkpoints"]) > MAX_LEVEL_TICKS else 0.0
    legend_columns = min(6, max(1, len(looks)))
    legend_height = LEGEND_LINE * -(-len(looks) // legend_columns) + 0.6
    height = num_panel_rows * (PANEL_HEIGHT + upright) + legend_height + 0.2
    figure = new_figure(height)
    top, bottom = 1 - (legend_height + 0.1) / height, (0.55 + upright) / height
    figure.subplots_adjust(left=0.045, right=0.99, bottom=bottom, top=top, wspace=0.2, hspace=0.32 + upright / 2)
    panels = figure.subplots(num_panel_rows, num_columns, squeeze=False).reshape(-1)
    logs = np.log(np.asarray(report["checkpoints"], np.float64))
    distance = np.diff(logs).min() if len(logs) > 1 else LONE_DISTANCE
    spread = distance * min(DODGE * (len(looks) - 1), MAX_DODGE)  # error bars at one checkpoint stand beside one another
    margin = 0.6 * spread + 0.04 * (np.ptp(logs) or LONE_DISTANCE)
    handles: dict[str, Any] = {}
    for axes, measure in zip(panels, measures, strict=False):
        _style(axes, report["checkpoints"], measure)
        axes.set_xlim(*np.exp([logs[0] - margin, logs[-1] + margin]))
        for k, (name, look) in enumerate(looks.items()):
            place = k / max(1, len(looks) - 1) - 0.5
            drawn = _draw(axes, rows[name], measure, look, np.exp(logs + place * spread))
            handles[name] = drawn or handles.get(name)
    for axes in panels[len(measures) :]:
        axes.set_axis_off()
    for axes in panels[max(0, len(measures) - num_columns) : len(measures)]:
        axes.set_xlabel("gradients a chain", color=INK, size=9)
    labels = summary(report["labels"])
    said = f"{labels}; {report['num_chains']} chains a class; bars and grey band: one standard error"
    if not measures:
        said = f"{labels}: no measure has a curve"
    figure.text(0.045, 1 - 0.3 / height, drawable(said), color=INK, size=12, parse_math=False)
    drawn_names = [name for name, handle in handles.items() if handle is not None]
    if drawn_names:
        figure.legend(
            [handles[name] for name in drawn_names],
            [drawable(name) for name in drawn_names],
            loc="upper left",
            bbox_to_anchor=(0.042, 1 - 0.42 / height),
            ncols=legend_columns,
            frameon=False,
            fontsize=10,
            handlelength=4,
            borderaxespad=0,
            borderpad=0.2,
            columnspacing=2.5,
        )
    return to_image(figure)


def _looks(rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """How each row with a value is drawn: a method and its +reg share colour and marker, the latter dashed and hollow."""
    shown = {name: row for name, row in rows.items() if row.get("values") or row.get("curve")}
    across = [name for name, row in shown.items() if row["kind"] in ("reference", "exact")]
    bases = list(dict.fromkeys(name.removesuffix(REGULARIZED) for name in shown if name not in across))
    references = [name for name in across if shown[name]["kind"] == "reference"]
    looks: dict[str, dict[str, Any]] = {}
    for name in shown:
        if name in references:
            dashes = ACROSS[references.index(name) % len(ACROSS)]
            looks[name] = dict(color=GREY, linestyle=dashes, linewidth=1.6)
        elif name in across:
            looks[name] = dict(color="black", linestyle="-", linewidth=1.1)
        else:
            k = bases.index(name.removesuffix(REGULARIZED))
            color, pulled = COLORS[k % len(COLORS)], is_regularized(name)
            looks[name] = dict(
                color=color,
                marker=MARKERS[k % len(MARKERS)],
                linestyle=(0, (3.5, 1.6)) if pulled else "-",
                markerfacecolor="white" if pulled else color,
                linewidth=1.6,
                markersize=5.5,
            )
    return looks


def _style(axes: Any, checkpoints: list[int], measure: str) -> None:
    head, better, _ = MEASURES[measure]
    axes.set_xscale("log")
    style(axes, size=8.5)
    axes.grid(axis="y", color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.minorticks_off()
    upright = dict(rotation=90) if len(checkpoints) > MAX_LEVEL_TICKS else {}
    axes.set_xticks(checkpoints, [f"{at:,}" for at in checkpoints], **upright)
    axes.set_title(head, color=INK, size=11, loc="left")
    if better:
        axes.set_title(f"{better} is better", color="#666666", size=9, loc="right")


def _draw(axes: Any, row: dict[str, Any], measure: str, look: dict[str, Any], places: np.ndarray) -> Any:
    """Draws one row; what stands for it in the legend, None where it has no value of `measure`."""
    if row["kind"] in ("reference", "exact"):
        value = final(row, measure)
        if value is None:
            return None
        if value.error and row["kind"] == "exact":
            axes.axhspan(value.value - value.error, value.value + value.error, color="black", alpha=0.08, linewidth=0)
        return axes.axhline(value.value, zorder=1.5, **look)
    points = curve(row, measure)
    if all(value is None for value in points):
        return None
    values = [np.nan if value is None else value.value for value in points]
    errors = [0.0 if value is None else value.error or 0.0 for value in points]
    count = min(len(values), len(places))
    return axes.errorbar(places[:count], values[:count], errors[:count], elinewidth=1.1, capsize=2, **look)
