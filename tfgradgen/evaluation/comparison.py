"""From what was sampled to the report of a comparison: a row a method, each measured after growing numbers of gradients."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfgradgen.core.contracts import GeneratorLike
from tfgradgen.evaluation.cells import Cell, Ground
from tfgradgen.evaluation.entries import Entry
from tfgradgen.evaluation.measures import Standards, halves, measure, told_apart
from tfgradgen.evaluation.pictures import Observer, Photographs, Pictures
from tfgradgen.evaluation.report.catalogue import Value
from tfgradgen.io.images import decode

PHOTOGRAPHS, PRIOR = "photographs", "prior"


@dataclass
class Sampled:
    """What was sampled. grounds: by label. cells: by (row, label). failed: of those that are not there, the reason."""

    grounds: dict[str, Ground] = field(default_factory=dict)
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        return list(self.grounds)


@dataclass
class Comparison:
    """rows: what the report says of each, JSON-able (see `compare`). pictures: of each row and label those of the last
    checkpoint; photographs are there only where their images are."""

    rows: dict[str, dict[str, Any]]
    pictures: dict[str, dict[str, Pictures]]


class Comparer:
    """Measures rows against the same standards.

    Args:
      sampled: the cells. generators: by label, what makes their pictures. observer: looks at them.
      photographs: those that the observer's networks were shown; None for none, and the measures that need them are left out.
    """

    def __init__(
        self,
        sampled: Sampled,
        generators: Mapping[str, GeneratorLike],
        observer: Observer,
        photographs: Photographs | None,
    ):
        self.sampled, self._generators, self._observer = sampled, generators, observer
        known = photographs.pictures if photographs else {}
        self.photographs = {k: known[k] for k in sampled.labels} if all(k in known for k in sampled.labels) else {}
        truth = {k: ground.truth_z for k, ground in sampled.grounds.items() if len(ground.truth_z)}
        self._truth = {k: self._look(z, k) for k, z in truth.items()}

    def _look(self, z: np.ndarray, label: str) -> Pictures:
        # As uint8, as on disk, so that no network sees more of them than of photographs.
        return self._observer.look(decode(self._generators[label], z), label)

    def _standards(self, labels: Sequence[str], photographs: Mapping[str, Pictures]) -> Standards:
        has_truth = all(k in self._truth for k in labels)
        return Standards(
            {k: photographs[k] for k in labels if k in photographs}, {k: self._truth[k] for k in labels} if has_truth else {}
        )

    def method(self, entry: Entry, num_checkpoints: int) -> tuple[dict[str, Any], dict[str, Pictures]]:
        """The row of a method, and its pictures at the last checkpoint."""
        cells = {k: self.sampled.cells[entry.name, k] for k in self.sampled.labels if (entry.name, k) in self.sampled.cells}
        row: dict[str, Any] = {
            "about": entry.about,
            "kind": entry.sampler.kind,
            "values": {},
            "curve": {},
            "gradients": None,
            "forward": None,
            "failed": {k: why for (name, k), why in self.sampled.failed.items() if name == entry.name},
            "labels": list(cells),
        }
        if not cells:
            return row, {}
        standards = self._standards(list(cells), self.photographs)
        points: list[dict[str, Value]] = []
        # Exact draws are the same ones at every checkpoint.
        for at in range(num_checkpoints) if entry.sampler.kind != "exact" else [num_checkpoints - 1]:
            if any(not np.isfinite(cell.z[at]).all() for cell in cells.values()):
                points.append({})
                continue
            pictures = {k: self._look(cell.z[at], k) for k, cell in cells.items()}
            points.append(measure(pictures, standards))
        points *= num_checkpoints // len(points)
        ess = np.stack([cell.ess for cell in cells.values()])
        values = points[-1] | told_apart(pictures, standards)
        if np.isfinite(ess[:, 0]).all():
            error = np.sqrt(np.sum(ess[:, 1] ** 2)) / len(ess)
            values["ess_per_1000"] = Value(float(ess[:, 0].mean()), float(error) if np.isfinite(error) else None)
        row |= {
            "values": as_json(values),
            "curve": {name: [as_json(point).get(name) for point in points] for name in points[-1]},
            "gradients": float(np.mean([cell.num_gradients[-1] for cell in cells.values()])),
            "forward": float(np.mean([cell.num_forward[-1] for cell in cells.values()])),
        }
        return row, pictures

    def prior(self, num_checkpoints: int) -> tuple[dict[str, Any], dict[str, Pictures]]:
        """The row of plain prior draws."""
        pictures = {k: self._look(ground.prior_z, k) for k, ground in self.sampled.grounds.items()}
        standards = self._standards(self.sampled.labels, self.photographs)
        return reference_row("prior draws, whatever their class", pictures, standards, num_checkpoints), pictures

    def held_out(self, num_chains: int, num_checkpoints: int) -> tuple[dict[str, Any], dict[str, Pictures]] | None:
        """The row of photographs, as many of each class as there are chains; None without photographs."""
        if not self.photographs:
            return None
        pictures = {k: p.part(np.arange(min(num_chains, len(p.features)))) for k, p in self.photographs.items()}
        row = reference_row("held-out photographs", pictures, self._standards(self.sampled.labels, {}), num_checkpoints)
        # Against photographs: one half of them against the other. FID would be of fewer than the others' is.
        some, others = halves(self.photographs)
        found = as_json(measure(some, Standards(others, {})))
        for name in ("kid", "density", "coverage", "repeats"):
            row["values"][name], row["curve"][name] = found[name], [found[name]] * num_checkpoints
        if min(len(p.features) for p in pictures.values()) < num_chains:  # of fewer pictures the score is smaller
            row["values"].pop("vendi"), row["curve"].pop("vendi")
        return row, pictures if all(len(p.image) for p in pictures.values()) else {}


def reference_row(about: str, pictures: Mapping[str, Pictures], standards: Standards, num_checkpoints: int) -> dict[str, Any]:
    """A row that no budget changes."""
    points = measure(pictures, standards)
    return {
        "about": about,
        "kind": "reference",
        "values": as_json(points | told_apart(pictures, standards)),
        "curve": {name: [figure] * num_checkpoints for name, figure in as_json(points).items()},
        "gradients": None,
        "forward": None,
        "failed": {},
        "labels": list(pictures),
    }


def as_json(values: Mapping[str, Value]) -> dict[str, dict[str, float | None]]:
    """Figures that are numbers, by name."""
    return {name: value._asdict() for name, value in values.items() if np.isfinite(value.value)}


def compare(
    comparer: Comparer, entries: Sequence[Entry], num_chains: int, num_checkpoints: int, progress_fn: Callable[[str], None]
) -> Comparison:
    """All rows; `progress_fn` is called with the name of each before it is measured.

    A row holds: about, one line; kind, that of the method, or 'reference'; values and curve, by measure a figure {value, error}
    and a list of them, None where there is none; gradients and forward, evaluations a chain; failed, {label: reason}; labels.
    """
    made: dict[str, tuple[dict[str, Any], dict[str, Pictures]]] = {}
    for entry in entries:
        progress_fn(entry.name)
        made[entry.name] = comparer.method(entry, num_checkpoints)
    progress_fn("references")
    held_out = comparer.held_out(num_chains, num_checkpoints)
    if held_out:
        made[PHOTOGRAPHS] = held_out
    made[PRIOR] = comparer.prior(num_checkpoints)
    return Comparison({k: row for k, (row, _) in made.items()}, {k: pictures for k, (_, pictures) in made.items() if pictures})
