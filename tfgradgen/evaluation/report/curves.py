"""Plots of a comparison: each measure against the number of gradients, with one line per method."""

from typing import Any

import numpy as np
from PIL import Image

from tfgradgen.diagnostics.figure import GREY, INK, drawable, new_figure, style, to_image
from tfgradgen.evaluation.report.catalogue import MEASURES
from tfgradgen.evaluation.report.figures import REGULARIZED, curve, final, is_regularized, summary, with_curves

NUM_COLUMNS = 4
PANEL_HEIGHT, LEGEND_LINE = 2.7, 0.27  # inches
COLORS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#6a3d9a")  # a palette for colour-blind readers
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")  # 8 markers and 7 colours are coprime, so that pairs rarely repeat
ACROSS = ("--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)))  # line styles of the references
DODGE, MAX_DODGE = 0.035, 0.3  # offset between methods, and largest total offset, in units of the distance of checkpoints
LONE_DISTANCE = 5.0  # that distance if there is only one checkpoint, on a natural log scale
MAX_LEVEL_TICKS, UPRIGHT_HEIGHT = 6, 0.35  # most horizontal tick labels, and height of vertical ones in inches


def plot_curves(report: dict[str, Any]) -> Image.Image:
    """Plot each measure with a curve against gradients per chain (log scale), with bars of one standard error.

    References and exact draws, which do not depend on the number of gradients, are horizontal lines.
    """
    rows = report["rows"]
    measures = with_curves(rows)
    styles = _styles(rows)
    num_columns = min(NUM_COLUMNS, max(1, len(measures)))
    num_panel_rows = max(1, -(-len(measures) // num_columns))
    upright = UPRIGHT_HEIGHT if len(report["checkpoints"]) > MAX_LEVEL_TICKS else 0.0
    legend_columns = min(6, max(1, len(styles)))
    legend_height = LEGEND_LINE * -(-len(styles) // legend_columns) + 0.6
    height = num_panel_rows * (PANEL_HEIGHT + upright) + legend_height + 0.2
    figure = new_figure(height)
    top, bottom = 1 - (legend_height + 0.1) / height, (0.55 + upright) / height
    figure.subplots_adjust(left=0.045, right=0.99, bottom=bottom, top=top, wspace=0.2, hspace=0.32 + upright / 2)
    panels = figure.subplots(num_panel_rows, num_columns, squeeze=False).reshape(-1)
    logs = np.log(np.asarray(report["checkpoints"], np.float64))
    distance = np.diff(logs).min() if len(logs) > 1 else LONE_DISTANCE
    spread = distance * min(DODGE * (len(styles) - 1), MAX_DODGE)  # error bars at a checkpoint are drawn side by side
    margin = 0.6 * spread + 0.04 * (np.ptp(logs) or LONE_DISTANCE)
    handles: dict[str, Any] = {}
    for axes, measure in zip(panels, measures, strict=False):
        _style(axes, report["checkpoints"], measure)
        axes.set_xlim(*np.exp([logs[0] - margin, logs[-1] + margin]))
        for k, (name, line_style) in enumerate(styles.items()):
            offset = k / max(1, len(styles) - 1) - 0.5
            drawn = _draw(axes, rows[name], measure, line_style, np.exp(logs + offset * spread))
            handles[name] = drawn or handles.get(name)
    for axes in panels[len(measures) :]:
        axes.set_axis_off()
    for axes in panels[max(0, len(measures) - num_columns) : len(measures)]:
        axes.set_xlabel("gradients per chain", color=INK, size=9)
    labels = summary(report["labels"])
    title = f"{labels}; {report['num_chains']} chains per class; bars and grey band: one standard error"
    if not measures:
        title = f"{labels}: no measure has a curve"
    figure.text(0.045, 1 - 0.3 / height, drawable(title), color=INK, size=12, parse_math=False)
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


def _styles(rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the style of each row with a value. A method and its +reg share colour and marker; +reg is dashed and hollow."""
    shown = {name: row for name, row in rows.items() if row.get("values") or row.get("curve")}
    across = [name for name, row in shown.items() if row["kind"] in ("reference", "exact")]
    bases = list(dict.fromkeys(name.removesuffix(REGULARIZED) for name in shown if name not in across))
    references = [name for name in across if shown[name]["kind"] == "reference"]
    styles: dict[str, dict[str, Any]] = {}
    for name in shown:
        if name in references:
            dashes = ACROSS[references.index(name) % len(ACROSS)]
            styles[name] = dict(color=GREY, linestyle=dashes, linewidth=1.6)
        elif name in across:
            styles[name] = dict(color="black", linestyle="-", linewidth=1.1)
        else:
            k = bases.index(name.removesuffix(REGULARIZED))
            color, pulled = COLORS[k % len(COLORS)], is_regularized(name)
            styles[name] = dict(
                color=color,
                marker=MARKERS[k % len(MARKERS)],
                linestyle=(0, (3.5, 1.6)) if pulled else "-",
                markerfacecolor="white" if pulled else color,
                linewidth=1.6,
                markersize=5.5,
            )
    return styles


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
        axes.set_title("higher is better" if better == "up" else "lower is better", color="#666666", size=9, loc="right")


def _draw(axes: Any, row: dict[str, Any], measure: str, line_style: dict[str, Any], positions: np.ndarray) -> Any:
    """Draw one row; return its handle for the legend, or None if it has no value of `measure`."""
    if row["kind"] in ("reference", "exact"):
        value = final(row, measure)
        if value is None:
            return None
        if value.error and row["kind"] == "exact":
            axes.axhspan(value.value - value.error, value.value + value.error, color="black", alpha=0.08, linewidth=0)
        return axes.axhline(value.value, zorder=1.5, **line_style)
    points = curve(row, measure)
    if all(value is None for value in points):
        return None
    values = [np.nan if value is None else value.value for value in points]
    errors = [0.0 if value is None else value.error or 0.0 for value in points]
    count = min(len(values), len(positions))
    return axes.errorbar(positions[:count], values[:count], errors[:count], elinewidth=1.1, capsize=2, **line_style)
