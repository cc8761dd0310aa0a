"""The `diagnose` command: says again from the files of a run whether to trust it."""

from pathlib import Path
from typing import Any

from tfgradgen.cli.records import read_run
from tfgradgen.cli.report import said_before, trust, trust_lines
from tfgradgen.cli.terminal import as_text, say


def diagnose(folder: Path) -> list[str]:
    """Prints chains, statistics and what speaks against the run in `folder`; returns the latter."""
    record, draws, _ = read_run(folder, "diagnose", "give the folder that `sample` wrote")
    found = trust(draws, record["kernel"], record["arguments"]["kernel_config"], said_before(record))
    seconds = max(record["seconds"], 1e-9)
    name = as_text(record["label"]["name"])
    say(f"ran      {record['kernel']} for {name}: {draws.z.shape[1]} chains, {len(draws.z)} draws each")
    say(table({"chain": list(range(draws.z.shape[1])), **found["chains"]}))
    rows = found["statistics"]
    columns: dict[str, list[Any]] = {"statistic": list(rows)}
    for key in ("mean", "standard_error", "ess", "ess_bulk", "ess_tail", "rhat", "between"):
        columns[key] = [row[key] for row in rows.values()]
    least = [min((row[key] for key in ("ess", "ess_bulk", "ess_tail") if row[key]), default=None) for row in rows.values()]
    if record["num_gradients"]:
        columns["ess per gradient"] = [size and size / record["num_gradients"] for size in least]
    columns["ess per second"] = [size and size / seconds for size in least]
    say(table(columns))
    say("\n".join(trust_lines(found)))
    return list(found["problems"])


def table(columns: dict[str, list[Any]]) -> str:
    """Right-aligned columns under their names; `-` where a value is unknown."""
    texts = [[name.removeprefix("num_"), *map(_shown, values)] for name, values in columns.items()]
    widths = [max(map(len, column)) for column in texts]
    rows = zip(*texts, strict=True)
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
