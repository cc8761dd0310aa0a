"""The rows of a comparison's report: the measures of each method at each gradient budget."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfgradgen.core.contracts import GeneratorLike
from tfgradgen.evaluation.cells import Cell, LabelReference
from tfgradgen.evaluation.measures import References, halves, measure, two_sample_tests
from tfgradgen.evaluation.method_specs import MethodSpec
from tfgradgen.evaluation.report.catalogue import Value
from tfgradgen.evaluation.scored_images import Observer, Photographs, ScoredImages
from tfgradgen.media.registry import decoded

PHOTOGRAPHS, PRIOR = "photographs", "prior"


@dataclass
class Sampled:
    """The samples of a comparison.

    Attributes:
      references: Shared data by label.
      cells: Cells by (method, label).
      failed: For each missing cell, the reason.
      warnings: Warnings of the checks of the models, with the sections that explain them.
    """

    references: dict[str, LabelReference] = field(default_factory=dict)
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        return list(self.references)


@dataclass
class Comparison:
    """The result of a comparison.

    Attributes:
      rows: Content of the report by row, JSON-serializable (see `compare`).
      scored: Images of the last checkpoint by row and label. Photographs come first, only if their images are available.
      z: Latent points of these, by row and label; photographs have none.
    """

    rows: dict[str, dict[str, Any]]
    scored: dict[str, dict[str, ScoredImages]]
    z: dict[str, dict[str, np.ndarray]]


class Comparer:
    """Measures all rows with the same references.

    Args:
      sampled: The samples.
      generators: Generators by label.
      observer: Scores the images.
      photographs: Photographs scored by the observer; None to leave out the measures that need them.
    """

    def __init__(
        self,
        sampled: Sampled,
        generators: Mapping[str, GeneratorLike],
        observer: Observer,
        photographs: Photographs | None,
    ):
        self.sampled, self._generators, self._observer = sampled, generators, observer
        known = photographs.scored if photographs else {}
        self.photographs = {k: known[k] for k in sampled.labels} if all(k in known for k in sampled.labels) else {}
        truth = {k: reference.truth_z for k, reference in sampled.references.items() if len(reference.truth_z)}
        self._truth = {k: self._observe(z, k) for k, z in truth.items()}

    def _observe(self, z: np.ndarray, label: str) -> ScoredImages:
        # As they are stored, so that the networks get images in the same precision as photographs.
        return self._observer.observe(decoded(self._generators[label], z)[1], label)

    def _references(self, labels: Sequence[str], photographs: Mapping[str, ScoredImages]) -> References:
        has_truth = all(k in self._truth for k in labels)
        return References(
            {k: photographs[k] for k in labels if k in photographs},
            {k: self._truth[k] for k in labels} if has_truth else {},
            self._observer.medium.distance_name,
        )

    def method(self, spec: MethodSpec, num_checkpoints: int) -> tuple[dict[str, Any], dict[str, ScoredImages]]:
        """Return the row of a method, and its images at the last checkpoint."""
        cells = {k: self.sampled.cells[spec.name, k] for k in self.sampled.labels if (spec.name, k) in self.sampled.cells}
        row: dict[str, Any] = {
            "about": spec.about,
            "kind": spec.sampler.kind,
            "values": {},
            "curve": {},
            "gradients": None,
            "forward": None,
            "failed": {k: why for (name, k), why in self.sampled.failed.items() if name == spec.name},
            "labels": list(cells),
        }
        if not cells:
            return row, {}
        references = self._references(list(cells), self.photographs)
        points: list[dict[str, Value]] = []
        # Exact draws are the same at every checkpoint.
        for at in range(num_checkpoints) if spec.sampler.kind != "exact" else [num_checkpoints - 1]:
            if any(not np.isfinite(cell.z[at]).all() for cell in cells.values()):
                points.append({})
                continue
            scored = {k: self._observe(cell.z[at], k) for k, cell in cells.items()}
            points.append(measure(scored, references))
        points *= num_checkpoints // len(points)
        ess = np.stack([cell.ess for cell in cells.values()])
        values = points[-1] | two_sample_tests(scored, references)
        if np.isfinite(ess[:, 0]).all():
            error = np.sqrt(np.sum(ess[:, 1] ** 2)) / len(ess)
            values["ess_per_1000"] = Value(float(ess[:, 0].mean()), float(error) if np.isfinite(error) else None)
        row |= {
            "values": as_json(values),
            "curve": {name: [as_json(point).get(name) for point in points] for name in points[-1]},
            "gradients": float(np.mean([cell.num_gradients[-1] for cell in cells.values()])),
            "forward": float(np.mean([cell.num_forward[-1] for cell in cells.values()])),
        }
        return row, scored

    def prior(self, num_checkpoints: int) -> tuple[dict[str, Any], dict[str, ScoredImages]]:
        """Return the row of plain prior draws."""
        scored = {k: self._observe(reference.prior_z, k) for k, reference in self.sampled.references.items()}
        references = self._references(self.sampled.labels, self.photographs)
        return reference_row("prior draws of any class", scored, references, num_checkpoints), scored

    def held_out(self, num_chains: int, num_checkpoints: int) -> tuple[dict[str, Any], dict[str, ScoredImages]] | None:
        """Return the row of photographs, with as many per class as there are chains; None without photographs."""
        if not self.photographs:
            return None
        scored = {k: p.part(np.arange(min(num_chains, len(p.features)))) for k, p in self.photographs.items()}
        row = reference_row("held-out photographs", scored, self._references(self.sampled.labels, {}), num_checkpoints)
        # Compare one half of the photographs with the other. FID is left out: its bias depends on the number of images.
        some, others = halves(self.photographs)
        found = as_json(measure(some, References(others, {})))
        for name in ("kid", "density", "coverage", "repeats"):
            row["values"][name], row["curve"][name] = found[name], [found[name]] * num_checkpoints
        if min(len(p.features) for p in scored.values()) < num_chains:  # the Vendi score grows with the number of images
            row["values"].pop("vendi"), row["curve"].pop("vendi")
        return row, scored if all(len(p.image) for p in scored.values()) else {}


def reference_row(
    about: str, scored: Mapping[str, ScoredImages], references: References, num_checkpoints: int
) -> dict[str, Any]:
    """Return a row that does not depend on the budget."""
    points = measure(scored, references)
    return {
        "about": about,
        "kind": "reference",
        "values": as_json(points | two_sample_tests(scored, references)),
        "curve": {name: [figure] * num_checkpoints for name, figure in as_json(points).items()},
        "gradients": None,
        "forward": None,
        "failed": {},
        "labels": list(scored),
    }


def as_json(values: Mapping[str, Value]) -> dict[str, dict[str, float | None]]:
    """Return the finite values by name."""
    return {name: value._asdict() for name, value in values.items() if np.isfinite(value.value)}


def compare(
    comparer: Comparer, specs: Sequence[MethodSpec], num_chains: int, num_checkpoints: int, progress_fn: Callable[[str], None]
) -> Comparison:
    """Measure all rows; `progress_fn` is called with the name of each row before it is measured.

    A row has the entries about (one line); kind (that of the method, or 'reference'); values (measure -> {value, error}); curve
    (measure -> list of these, with None for unknown ones); gradients and forward (evaluations per chain); failed (label ->
    reason); and labels.
    """
    made: dict[str, tuple[dict[str, Any], dict[str, ScoredImages]]] = {}
    for spec in specs:
        progress_fn(spec.name)
        made[spec.name] = comparer.method(spec, num_checkpoints)
    progress_fn("references")
    held_out = comparer.held_out(num_chains, num_checkpoints)
    if held_out:
        made[PHOTOGRAPHS] = held_out
    made[PRIOR] = comparer.prior(num_checkpoints)
    order = sorted(made, key=lambda name: name != PHOTOGRAPHS)  # what all rows of images are compared with comes first
    rows, scored = {k: row for k, (row, _) in made.items()}, {k: made[k][1] for k in order if made[k][1]}
    sampled = comparer.sampled
    z = {name: {k: cell.z[-1] for (method, k), cell in sampled.cells.items() if method == name} for name in scored}
    return Comparison(rows, scored, z | {PRIOR: {k: reference.prior_z for k, reference in sampled.references.items()}})
