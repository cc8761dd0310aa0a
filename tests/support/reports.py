"""Made-up reports of comparisons."""

from typing import Any

CHECKPOINTS = [10, 30, 100]
Cell = dict[str, float | None]


def cell(value: float | None, error: float | None = None) -> Cell:
    return {"value": value, "error": error}


def row(kind: str, curves: dict[str, list[Cell | None]] | None = None, **values: Cell) -> dict[str, Any]:
    curves = curves or {}
    ends = {name: points[-1] for name, points in curves.items() if points[-1] is not None}
    return {
        "about": f"a row of kind {kind}",
        "kind": kind,
        "values": ends | values,
        "curve": curves,
        "gradients": None if kind == "reference" else 100.0,
        "forward": 7.0,
        "failed": {},
        "labels": ["goldfish", "monarch"],
    }


def natural(*values: float, error: float | None = 0.2) -> dict[str, list[Cell | None]]:
    return {"log_natural": [cell(value, error) for value in values]}


def make(checkpoints: list[int] = CHECKPOINTS, **rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "labels": ["goldfish", "monarch"],
        "num_chains": 4,
        "num_gradients": checkpoints[-1],
        "checkpoints": checkpoints,
        "command": "python -m tfgradgen compare --labels=goldfish,monarch",
        "rows": {name.replace("_reg", "+reg"): made for name, made in rows.items()},
    }


def as_on_the_poster() -> dict[str, Any]:
    return make(
        photographs=row("reference", natural(-3, -3, -3)),
        rejection=row("exact", natural(-5, -5, -5)),
        map=row("ascent", natural(-6, -5, -12)),
        map_reg=row("ascent", natural(-6.5, -6, -6)),
        mala=row("chain", natural(-7, -6, -6.1)),
        mala_reg=row("chain", natural(-7, -6, -5.5)),
    )
