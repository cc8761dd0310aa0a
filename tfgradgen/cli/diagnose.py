"""The `diagnose` command: the grades of a run, computed again from its files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfgradgen.cli.output import PLACE
from tfgradgen.cli.terminal import give, say
from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.files import finite
from tfgradgen.core.text import as_text, counted
from tfgradgen.diagnostics.convergence import LATENT, shown_names
from tfgradgen.io.folders import PARTIAL, partial_path
from tfgradgen.io.store import CHECKPOINT
from tfgradgen.results.files import RUN_FILE, read_run
from tfgradgen.results.record import diagnosis
from tfgradgen.results.summary import verdict

MOST_NAMED = 12  # most runs with problems that the last line names


def run_diagnose(folder: Path, as_json: bool = False) -> list[str]:
    """Diagnose the run in `folder`, or every run in it if it holds several labels, and return the problems of all of them.

    Args:
      folder: The folder.
      as_json: Whether to print JSON instead of tables.

    Raises:
      UserError: There is no run.
    """
    if (folder / RUN_FILE).exists():
        return _printed_json([folder]) if as_json else diagnose(folder)
    inner = sorted(path for path in folder.iterdir() if (path / RUN_FILE).exists()) if folder.is_dir() else []
    unfinished = _unfinished(folder)
    if not inner:
        raise no_run(folder)
    if as_json:
        return _printed_json(inner, unfinished)
    found = {path: _shown_run(path) for path in inner}
    bad = [path.name for path, problems in found.items() if problems]
    say(f"in all   {counted(len(inner), 'run')}, {len(bad)} with problems" + (f": {_listed(bad)}" if bad else ""))
    if unfinished:
        runs = counted(len(unfinished), "unfinished run")
        say(f"left out {runs}: {_listed(unfinished)}; finish with sample --resume")
    return [problem for problems in found.values() for problem in problems]


def _unfinished(folder: Path) -> list[str]:
    """Return the names of the labels in `folder` whose runs were begun and not finished."""
    if not folder.is_dir():
        return []
    marked = (path.name for path in folder.iterdir() if (path / CHECKPOINT).exists() and path.name.endswith(PARTIAL))
    return sorted(name.removesuffix(PARTIAL) for name in marked)


def _listed(names: list[str]) -> str:
    return ", ".join(as_text(name) for name in names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")


def _printed_json(folders: list[Path], unfinished: Sequence[str] = ()) -> list[str]:
    """Print the diagnosis of each run as one JSON object, and return the problems of all of them.

    Each has what `results.record.diagnosis` returns, and which run it is. Numbers that are not finite are null.
    """
    runs = []
    for folder in folders:
        record, draws, _ = read_run(folder, "diagnose", "give the folder that `sample` wrote")
        num_results, num_chains = draws.class_prob.shape
        about = {"folder": str(folder), **{name: record[name] for name in ("label", "kernel", "seed")}}
        about |= {"num_results": num_results, "num_chains": num_chains, "seconds": record["seconds"]}
        about |= {name: record[name] for name in ("num_gradients", "num_forward")}
        runs.append(about | diagnosis(draws, record))
    shown = json.dumps(finite({"runs": runs, "unfinished": list(unfinished)}), allow_nan=False)
    give(shown, is_exact=True)  # ASCII, so no text in it can control a terminal
    return [problem for run in runs for problem in run["problems"]]


def _shown_run(folder: Path) -> list[str]:
    say(f"run      {as_text(folder)}")
    problems = diagnose(folder)
    say("")
    return problems


def no_run(folder: Path, command: str = "diagnose") -> UserError:
    """Return the error for a folder without a run, which says whether it is missing, unfinished or something else."""
    example = "give a folder that `sample` wrote, such as out/goldfish-mala-0"
    for unfinished in (folder, partial_path(folder), partial_path(folder / PLACE)):
        if (unfinished / CHECKPOINT).exists():
            return fail(command, "a finished run", f"{unfinished}, an unfinished one", "finish it with sample --resume")
    if names := _unfinished(folder):
        return fail(command, "a finished run", f"unfinished ones in {folder}: {_listed(names)}", "finish with sample --resume")
    why = f"{RUN_FILE} is missing" if folder.is_dir() else "no such folder" if not folder.exists() else "it is not a folder"
    return fail(command, "a run", f"no run at {folder} ({why})", example)


def diagnose(folder: Path) -> list[str]:
    """Print the chains, statistics, grades and warnings of the run in `folder`, and return its problems."""
    record, draws, _ = read_run(folder, "diagnose", "give the folder that `sample` wrote")
    found = diagnosis(draws, record)
    seconds = max(record["seconds"], 1e-9)
    name = as_text(record["label"]["name"])
    say(f"ran      {record['kernel']} for {name}: {counted(draws.z.shape[1], 'chain')}, {counted(len(draws.z), 'draw')} each")
    say(table({"chain": list(range(draws.z.shape[1])), **found["chains"]}))
    rows = found["statistics"]
    names = shown_names(draws.z.shape[-1]) | {LATENT: f"z[{found['worst_coordinate']}], worst of {draws.z.shape[-1]}"}
    columns: dict[str, list[Any]] = {"statistic": [names[name] for name in rows]}
    for key in ("mean", "standard_error", "ess", "ess_bulk", "ess_tail", "rhat", "between"):
        columns[key] = [row[key] for row in rows.values()]
    least = [min((row[key] for key in ("ess", "ess_bulk", "ess_tail") if row[key]), default=None) for row in rows.values()]
    if record["num_gradients"]:
        columns["ess per gradient"] = [size and size / record["num_gradients"] for size in least]
    columns["ess per second"] = [size and size / seconds for size in least]
    say(table(columns))
    say("\n".join(verdict({**record, **found})))
    return list(found["problems"])


def table(columns: dict[str, list[Any]]) -> str:
    """Return right-aligned columns below their names, with `-` for a value that is None."""
    texts = [[name.removeprefix("num_"), *map(_shown, values)] for name, values in columns.items()]
    widths = [max(map(len, column)) for column in texts]
    rows = zip(*texts, strict=True)
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
