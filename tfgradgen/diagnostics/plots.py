"""An image of how the chains of a run mixed: traces, rank histograms and autocorrelations."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from tfgradgen.core.contracts import Draws
from tfgradgen.diagnostics.convergence import CLASS_PROB, LATENT, LOG_DENSITY, MIN_RESULTS, Convergence, run_statistics
from tfgradgen.diagnostics.figure import GREY, INK, drawable, new_figure, style, to_image

NUM_SHOWN = 16  # chains drawn one by one; more would hide each other
NUM_POINTS = 2000  # points per trace, about as many as the panel can resolve
NUM_BINS, DRAWS_PER_BIN = 20, 5  # rank histogram: most bins, least mean number of draws per bin
MAX_LAG = 100
HEIGHT, ALPHA = 10.5, 0.6  # height in inches; opacity of lines, which may overlap
# Of Okabe and Ito (2008), which people with any colour vision tell apart; the chain that stands out also has the widest line.
APART, STRIP, BLUE, OTHERS = "#D55E00", "#56B4E9", "#0072B2", "#7A93A8"
FEW_HEIGHT = 4.0  # inches, of the figure for chains of fewer than MIN_RESULTS draws
PITCH = 3  # distance between two chains' rank histograms, in uniform levels; higher bars are cut
COLUMNS = (
    "trace (orange: the chain farthest from the mean)",
    f"ranks of each chain (line: uniform; cut at {PITCH} times it)",
    "autocorrelation of each chain (black: mean of all)",
)
X_LABELS = ("kept draw", "rank among the draws of all chains", "lag, draws")


def rank_counts(values: np.ndarray, num_bins: int) -> np.ndarray:
    """Count the draws of each chain in each of `num_bins` equal parts of the ranks over all chains.

    Args:
      values: [num_results, num_chains], without NaN.
      num_bins: Number of parts.

    Returns:
      [num_chains, num_bins] int. Rows sum to num_results; entries are near num_results / num_bins if the chains agree (the rank
      plots of Vehtari et al. 2021).
    """
    from scipy.stats import rankdata  # as late as in `convergence`

    num_chains = values.shape[1]
    bins = ((rankdata(values, axis=None).reshape(values.shape) - 0.5) / values.size * num_bins).astype(int)
    flat = bins + num_bins * np.arange(num_chains)
    return np.bincount(flat.reshape(-1), minlength=num_chains * num_bins).reshape(num_chains, num_bins)


def autocorrelation(values: np.ndarray, max_lag: int) -> np.ndarray:
    """Return the autocorrelation of each chain about its own mean, [max_lag + 1, num_chains]; 1 for a chain that never moves.

    Args:
      values: [num_results, num_chains], finite.
      max_lag: Less than num_results.
    """
    from arviz_stats.base import array_stats  # as late as in `convergence`

    by_chain = np.asarray(values, np.float64).T
    moves = np.ptp(by_chain, axis=1) > 0
    result = np.ones((max_lag + 1, len(by_chain)))
    scaled = by_chain[moves] / np.abs(by_chain[moves]).max(1, keepdims=True)  # so that no square overflows
    if moves.any():
        result[:, moves] = array_stats.autocorr(scaled)[:, : max_lag + 1].T
    return result


def plot_chains(
    draws: Draws, title: str = "", found: Mapping[str, Convergence] | None = None, coordinate: int = 0
) -> Image.Image:
    """Plot p(class), the target density and the coordinate of z that mixed worst.

    Each is a row, labelled with its R-hat and effective sample size. The columns are trace, ranks and autocorrelation. The
    chain whose mean is farthest from that of all stands out. A panel that cannot be drawn says why. Chains of fewer than
    MIN_RESULTS draws have neither traces nor ranks: their draws are shown by chain, in one row.

    Args:
      draws: The draws of the run.
      title: Title of the figure.
      found: The `run_statistics`; computed by default.
      coordinate: The coordinate that belongs to `found`.
    """
    if found is None:
        found, coordinate = run_statistics(draws)
    latent_dim = draws.z.shape[-1]
    statistics = {
        _label("p(class)", found[CLASS_PROB]): draws.class_prob,
        _label("log density, nats", found[LOG_DENSITY]): draws.target_log_prob,
        _label(f"z[{coordinate}], worst of {latent_dim}", found[LATENT]): draws.z[..., coordinate],
    }
    num_results, num_chains = draws.class_prob.shape
    if num_results < MIN_RESULTS:
        return _plot_few(statistics, title)
    figure = new_figure(HEIGHT)
    figure.subplots_adjust(left=0.05, right=0.985, bottom=0.055, top=0.92, wspace=0.13, hspace=0.17)
    said = [title]
    if num_chains > NUM_SHOWN:
        said.append(f"the first {NUM_SHOWN} chains are drawn")
    if _stride(num_results) > 1:
        said.append(f"every {_stride(num_results)}th draw in the traces")
    figure.text(0.05, 0.967, drawable("; ".join(said)), color=INK, size=13, parse_math=False)
    panels = figure.subplots(len(statistics), len(COLUMNS), squeeze=False)
    for row, (name, values) in zip(panels, statistics.items(), strict=True):
        for axes, draw in zip(row, (_draw_trace, _draw_ranks, _draw_autocorrelation), strict=True):
            style(axes)
            axes.xaxis.get_major_locator().set_params(integer=True)
            draw(axes, np.asarray(values, np.float64))
        row[0].set_ylabel(name, color=INK, size=10)
    for axes, heading in zip(panels[0], COLUMNS, strict=True):
        axes.set_title(heading, color=INK, size=10, loc="left")
    for axes, label in zip(panels[-1], X_LABELS, strict=True):
        axes.set_xlabel(label, color=INK, size=9)
    return to_image(figure)


def _plot_few(statistics: Mapping[str, np.ndarray], title: str) -> Image.Image:
    """Plot the draws of chains that are too short for traces, ranks and autocorrelations: one panel each, by chain."""
    figure = new_figure(FEW_HEIGHT)
    figure.subplots_adjust(left=0.05, right=0.985, bottom=0.15, top=0.8, wspace=0.16)
    figure.text(0.05, 0.9, drawable(title), color=INK, size=13, parse_math=False)
    panels = figure.subplots(1, len(statistics), squeeze=False)[0]
    for axes, (name, values) in zip(panels, statistics.items(), strict=True):
        style(axes)
        axes.xaxis.get_major_locator().set_params(integer=True)
        finite = np.where(np.isfinite(values), np.asarray(values, np.float64), np.nan)
        if np.isnan(finite).all():
            _say(axes, "no finite draw")
        for row in finite:
            axes.plot(row, linestyle="", marker="o", markersize=4, color=BLUE, alpha=ALPHA)
        axes.set_title(name, color=INK, size=10, loc="left")
        axes.set_xlabel("chain", color=INK, size=9)
    return to_image(figure)


def _label(name: str, found: Convergence) -> str:
    """Return the label of a row: the name, with R-hat and ESS if they are known."""
    rhat = [] if found.rhat is None else [f"R-hat {found.rhat:.3f}"]
    ess = [] if found.ess is None else [f"ESS {found.ess:.0f}"]
    return f"{name}: {', '.join(rhat + ess)}" if rhat or ess else name


def _stride(num_results: int) -> int:
    return -(-num_results // NUM_POINTS)


def _apart(values: np.ndarray) -> int:
    """Return the number of the shown chain whose mean is farthest from that of the others; 0 if none is known."""
    shown = np.where(np.isfinite(values), values, np.nan)[:, :NUM_SHOWN]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a chain without a finite draw
        scaled = shown / np.nanmax(np.abs(shown))  # so that no sum overflows
        distance = np.abs(np.nanmean(scaled, 0) - np.nanmean(scaled))
    return int(np.nan_to_num(distance, nan=-1.0).argmax())


def _styles(values: np.ndarray) -> list[dict[str, Any]]:
    """Return colour, width and order of the line of each shown chain; the one farthest from the others stands out."""
    others = {"color": OTHERS, "alpha": ALPHA, "linewidth": 0.7, "zorder": 2}
    apart = {"color": APART, "linewidth": 1.4, "zorder": 3}
    farthest = _apart(values)
    return [apart if k == farthest else others for k in range(min(values.shape[1], NUM_SHOWN))]


def _name_apart(axes: Any, values: np.ndarray) -> None:
    axes.text(1.0, 1.01, f"chain {_apart(values)}", transform=axes.transAxes, ha="right", va="bottom", color=APART, size=9)


def _say(axes: Any, text: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, size=11)


def _unusable(values: np.ndarray) -> str:
    """Return why `values` [num_results, num_chains] cannot be diagnosed; '' if they can."""
    num_invalid = int((~np.isfinite(values)).sum())
    if num_invalid:
        return f"{num_invalid} of {values.size} draws are not finite"
    if len(values) < MIN_RESULTS:
        return f"fewer than {MIN_RESULTS} draws"
    return "constant" if np.ptp(values) == 0 else ""


def _draw_trace(axes: Any, values: np.ndarray) -> None:
    stride = _stride(len(values))
    shown = values[::stride, :NUM_SHOWN]
    shown = np.where(np.isfinite(shown), shown, np.nan)  # NaN leaves a gap in the line
    if np.isnan(shown).all():
        _say(axes, "no finite draw")
        return
    marker = "." if len(shown) <= NUM_BINS else ""  # a line of one point is invisible
    for line, style_of_line in zip(shown.T, _styles(values), strict=True):
        axes.plot(stride * np.arange(len(shown)), line, **style_of_line, marker=marker)
    if values.shape[1] > 1:
        _name_apart(axes, values)
    axes.set_xlim(-0.5, len(values) - 0.5)


def _draw_ranks(axes: Any, values: np.ndarray) -> None:
    num_results, num_chains = values.shape
    why = "one chain: nothing to compare it with" if num_chains == 1 else _unusable(values)
    if why:
        _say(axes, why)
        return
    num_bins = min(NUM_BINS, max(2, num_results // DRAWS_PER_BIN))
    counts, edges = rank_counts(values, num_bins)[:NUM_SHOWN], np.linspace(0, values.size, num_bins + 1)
    heights = np.minimum(counts / (PITCH * num_results / num_bins), 1)
    baselines = range(len(heights) - 1, -1, -1)  # chain 0 on top, as in the film
    apart = _apart(values)
    for k, (row, baseline) in enumerate(zip(heights, baselines, strict=True)):
        axes.stairs(baseline + row, edges, baseline=baseline, fill=True, color=APART if k == apart else STRIP)
        axes.axhline(baseline, color=GREY, linewidth=0.4)
        axes.axhline(baseline + 1 / PITCH, color=INK, linewidth=0.6)
    axes.set_xlim(0, values.size)
    axes.set_ylim(0, len(heights))
    axes.set_yticks([baseline + 0.5 for baseline in baselines], [str(k) for k in range(len(heights))])
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel("chain", color=INK, size=8, labelpad=0)


def _draw_autocorrelation(axes: Any, values: np.ndarray) -> None:
    why = _unusable(values)
    if why:
        _say(axes, why)
        return
    max_lag = min(MAX_LAG, len(values) // 2)
    found = autocorrelation(values, max_lag)
    shown = found[:, :NUM_SHOWN]
    for line, style_of_line in zip(shown.T, _styles(values), strict=True):
        axes.plot(line, **style_of_line)
    if found.shape[1] > 1:
        axes.plot(found.mean(1), color="black", linewidth=2, zorder=4)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xlim(0, max_lag)
    axes.set_ylim(min(-0.3, shown.min() - 0.05), 1.05)
