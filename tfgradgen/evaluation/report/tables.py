"""The report of a comparison as a CSV file and as a Markdown page."""

import csv
import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from tfgradgen.core.text import csv_text, markdown_text
from tfgradgen.evaluation.report.catalogue import MEASURES, Value
from tfgradgen.evaluation.report.figures import curve, final, read, shown, summary, with_curves
from tfgradgen.evaluation.report.findings import POSTER, claim, exact_is_closest, poster_order, which_to_use
from tfgradgen.media.registry import medium_in

NOTHING: Mapping[Any, Any] = MappingProxyType({})
CSV_COLUMNS = ("row", "kind", "num_gradients", "measure", "value", "standard_error", "num_labels")
WORK = {
    "gradients": ("gradients", "gradients that each chain used"),
    "forward": ("forward passes", "forward passes that each chain used"),
}
IDEAL = {"kid": 0.0, "mmd": 0.0, "c2st": 0.5}  # value for equal distributions; smaller values are not better
OF_SOUNDS = ("log_spectral_distance",)  # left out of a report of images
TABLES = {
    "Naturalness and class": ("log_natural", "judge_accuracy", "judge_log_prob", "kid", "fid", "density", "coverage"),
    "Diversity": ("vendi", "feature_distance", "ms_ssim", "log_spectral_distance", "repeats"),
    "Distribution and cost": ("mmd", "mmd_p", "c2st", "c2st_p", "ess_per_1000", *WORK),
}


def to_csv(report: dict[str, Any]) -> str:
    """Return the CSV file: one line per row, number of gradients and measure. References have no number of gradients."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for name, row in report["rows"].items():
        for measure in MEASURES:
            for at, value in _points(report, row, measure):
                error = "" if value.error is None else value.error
                writer.writerow([csv_text(name), row["kind"], at, measure, value.value, error, len(row["labels"])])
    return text.getvalue()


def to_markdown(report: dict[str, Any], joined: Mapping[tuple[str, str], str] = NOTHING) -> str:
    """Return report.md, which refers to curves.png and grids.png in the same folder.

    Args:
      report: The content of report.json.
      joined: Paths in that folder of files with the sounds or clips of the tiles of grids.png, by row and label.
    """
    warning = exact_is_closest(report)
    labels, plural = markdown_text(", ".join(report["labels"])), medium_in(report).plural
    blocks = [
        f"# Methods compared for {markdown_text(summary(report['labels']))}",
        f"Classes: {labels}. Chains per class: {report['num_chains']}. Gradients per chain: {report['num_gradients']:,}, "
        f"measured at {', '.join(f'{at:,}' for at in report['checkpoints'])}.",
        "\n".join(f"- `{name}`: {row['about']}" for name, row in report["rows"].items()),
        *_warnings(report),
        "## Which to use",
        *([warning] if warning else []),
        *which_to_use(report),
        "## Results",
        "Means over the classes ± one standard error at the last checkpoint. Bold: the best method, and all methods within one "
        "combined standard error of it. A row with fewer classes than the others lists its classes.",
        *_left_out(report),
        *_failures(report),
    ]
    for heading, every in TABLES.items():
        columns = tuple(name for name in every if name not in report.get("left_out", OF_SOUNDS))
        blocks += [f"### {heading}", _table(report, columns), _legend(columns, plural)]
    blocks += [
        "## Results by number of gradients",
        f"![{_curves_text(report)}](curves.png)",
        "One panel per measure, one line per method; bars show one standard error. Horizontal lines are the references (grey) "
        "and exact draws (black, with a band of one standard error). A sampler's line should end at the black line, even if "
        "that is not the better direction.",
        f"![{_grids_text(report)}](grids.png)",
        f"{_themselves(report)} Look for problems that the measures miss: repeated ones, and ones without content.",
        *_played(report, joined),
        *(_claim(report) if "log_natural" not in report.get("left_out", {}) else []),
        "## Make this comparison again",
        f"```\n{report['command']}\n```",
        "Add --out=FOLDER to write to another folder. All settings, versions and digests of the models are in report.json.",
    ]
    return "\n\n".join(blocks) + "\n"


def _left_out(report: dict[str, Any]) -> list[str]:
    """Return a line that says which measures are left out, and why."""
    heads: dict[str, list[str]] = {}
    for name, why in report.get("left_out", {}).items():
        heads.setdefault(why, []).append(MEASURES[name].head)
    reasons = [f"{', '.join(names)} ({why})" for why, names in heads.items() if why]
    return [f"Left out: {'; '.join(reasons)}."] if reasons else []


def _claim(report: dict[str, Any]) -> list[str]:
    """Return the section about the poster's claim."""
    *by_row, verdict = claim(report)
    return [
        "## The poster's claim",
        "Xu, Acuna and Duvenaud, 'Generating Class-conditional Images with Gradient-based Inference': long runs of MAP drift "
        "off the manifold of natural images unless they are regularized; chains do not. Here, from the best earlier checkpoint "
        "to the last:",
        *([_bullets(by_row)] if by_row else []),
        verdict,
        "The poster's mean log p(natural) and ours. The models differ, so only the order can be compared:",
        _poster(report),
        poster_order(report),
    ]


def _points(report: dict[str, Any], row: dict[str, Any], measure: str) -> list[tuple[int | str, Value]]:
    """Return (number of gradients, value) for the points of the curve and the final value, without duplicates."""
    last = final(row, measure)
    if row["kind"] == "reference":
        return [] if last is None else [("", last)]
    points: dict[int | str, Value] = {
        at: value for at, value in zip(report["checkpoints"], curve(row, measure), strict=False) if value is not None
    }
    own = read(row.get("values", {}).get(measure))
    if own is not None:
        points.setdefault(report["checkpoints"][-1] if points else report["num_gradients"], own)
    return list(points.items())


def _best(report: dict[str, Any], measure: str) -> set[str]:
    """Return the names of the best method and of all methods within one combined standard error of it."""
    better = MEASURES[measure].better if measure in MEASURES else ""
    found = {name: final(row, measure) for name, row in report["rows"].items() if row["kind"] != "reference"}
    values = {name: value for name, value in found.items() if value is not None}
    if not better or not values:
        return set()
    sign = 1 if better == "up" else -1
    if measure in IDEAL:  # values beyond the ideal are noise
        values = {name: value._replace(value=max(value.value, IDEAL[measure])) for name, value in values.items()}
    best = max(values.values(), key=lambda value: sign * value.value)
    return {
        name
        for name, value in values.items()
        if sign * (best.value - value.value) <= ((best.error or 0) ** 2 + (value.error or 0) ** 2) ** 0.5
    }


def _table(report: dict[str, Any], columns: tuple[str, ...]) -> str:
    heads = [MEASURES[name].head if name in MEASURES else WORK[name][0] for name in columns]
    lines = [["method", *heads], ["---"] + ["---:"] * len(heads)]
    best = {column: _best(report, column) for column in columns}
    for name, row in report["rows"].items():
        cells = [_work(row, column) if column in WORK else shown(final(row, column)) for column in columns]
        marked = [f"**{cell}**" if name in best[column] else cell for cell, column in zip(cells, columns, strict=True)]
        fewer = (
            f" ({markdown_text(', '.join(row['labels']))})"
            if row["labels"] and len(row["labels"]) < len(report["labels"])
            else ""
        )
        lines.append([f"`{name}`{fewer}", *marked])
    return _pipes(lines)


def _work(row: dict[str, Any], column: str) -> str:
    return "-" if row.get(column) is None else f"{row[column]:,.0f}"


def _pipes(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in lines)


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _failures(report: dict[str, Any]) -> list[str]:
    failed = [
        f"failed: {markdown_text(label)} with {name}: {markdown_text(reason)}"
        for name, row in report["rows"].items()
        for label, reason in row.get("failed", {}).items()
    ]
    return [_bullets(failed)] if failed else []


def _warnings(report: dict[str, Any]) -> list[str]:
    """Return the warnings of the checks of the models, each with a reference to its section of diagnostics/README.md."""
    lines = [markdown_text(line) for line in report.get("warnings", [])]
    return ["## Warnings", _bullets(lines)] if lines else []


def _curves_text(report: dict[str, Any]) -> str:
    """Return in words what curves.png shows."""
    heads = [MEASURES[name].head for name in with_curves(report["rows"])]
    return f"{', '.join(heads) or 'No measure'} by the number of gradients, a line for each of {', '.join(report['rows'])}"


def _grids_text(report: dict[str, Any]) -> str:
    """Return in words what grids.png shows."""
    rows, labels = ", ".join(report["rows"]), markdown_text(", ".join(report["labels"]))
    return f"{_shown(report)} of the first four chains: a row for each of {rows}; a column for each of {labels}"


def _shown(report: dict[str, Any]) -> str:
    """Return what the tiles of grids.png are called."""
    medium = medium_in(report)
    return f"Stills of {medium.plural}" if medium.joined_name else medium.plural.capitalize()


def _themselves(report: dict[str, Any]) -> str:
    """Return a sentence that says where the images, sounds or clips themselves are."""
    medium = medium_in(report)
    if medium.joined_name:
        return f"{_shown(report)}; pictures/ has the {medium.plural} themselves, as {medium.ending} files."
    return f"The {medium.plural} themselves."


def _played(report: dict[str, Any], joined: Mapping[tuple[str, str], str]) -> list[str]:
    """Return a table of links to the sounds or clips of the first four chains."""
    if not joined:
        return []
    lines = [["method", *map(markdown_text, report["labels"])], ["---"] * (1 + len(report["labels"]))]
    for name in report["rows"]:
        paths = [joined.get((name, label)) for label in report["labels"]]
        if any(paths):
            lines.append([f"`{name}`", *(f"[play]({quote(path)})" if path else "-" for path in paths)])
    return [f"The {medium_in(report).plural} of these four chains, by method and class:", _pipes(lines)]


def _legend(columns: tuple[str, ...], plural: str) -> str:
    lines = []
    for name in columns:
        head, about = (MEASURES[name].head, MEASURES[name].about) if name in MEASURES else WORK[name]
        better = MEASURES[name].better if name in MEASURES else ""
        direction = {"up": " (higher is better)", "down": " (lower is better)"}.get(better, "")
        lines.append(f"*{head}*: {about.format(plural=plural)}{direction}")
    return _bullets(lines)


def _poster(report: dict[str, Any]) -> str:
    lines = [["method", "poster", "here"], ["---", "---:", "---:"]]
    for name, figure in POSTER.items():
        row = report["rows"].get(name)
        lines.append([f"`{name}`", f"{figure:.2f}", shown(final(row, "log_natural")) if row else "-"])
    return _pipes(lines)
