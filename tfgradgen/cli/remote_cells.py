"""Cells of `compare` and runs of `tune` on the workers of an engine: each is a block of one piece."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tfgradgen.cli.compare_options import CompareOptions
from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.progress import progress_bar
from tfgradgen.cli.remote import Models, Remote, load_here
from tfgradgen.core.checks import UserError
from tfgradgen.core.config import RunConfig
from tfgradgen.core.contracts import Progress, ProgressFn
from tfgradgen.engine.places import check_surroundings
from tfgradgen.engine.work import Piece, Work
from tfgradgen.evaluation.cells import Cell, LabelReference, prepare_label, run_cell
from tfgradgen.evaluation.method_specs import MethodSpec, parse_method_spec
from tfgradgen.mcmc.budget import CELL_ERRORS
from tfgradgen.mcmc.recipe import Recipe
from tfgradgen.posterior import ClassPosterior
from tfgradgen.results.record import surroundings
from tfgradgen.tuning.objective import Cell as TunedCell
from tfgradgen.tuning.objective import Objective, Problem

NAN = float("nan")


@dataclass(frozen=True)
class Shared:
    """What all blocks of a command share.

    Attributes:
      models: The models.
      label: The labels of the command, as its flag gives them.
      run: Settings of all runs.
      surroundings: What the command records of the machine.
    """

    models: Models
    label: Any
    run: RunConfig
    surroundings: dict[str, Any] = field(default_factory=dict)

    def posteriors(self) -> dict[str, ClassPosterior]:
        """Return the posterior of each label by its name, in a worker."""
        check_surroundings(self.surroundings, self.run.jit)
        loaded = load_here(self.models)
        targets = loaded.targets(self.label)
        return {t.label.name: ClassPosterior.of(loaded.networks(t), t.index, self.run.temperature) for t in targets}


def _shared(remote: Remote, options: SampleOptions, label: Any) -> Shared:
    return Shared(remote.models, label, options.run, surroundings(remote.environment(options.run.jit)))


@dataclass(frozen=True)
class CellSpec:
    """A cell of `compare`, or with method None the reference of a label."""

    shared: Shared
    name: str
    method: str | None = None
    class_reg: float = 0.0
    reference: LabelReference | None = None
    checkpoints: tuple[int, ...] = ()


class Fault(NamedTuple):
    """An error that ends one of many runs (`CELL_ERRORS`), as a worker describes it."""

    text: str
    command_text: str | None

    @property
    def error(self) -> Exception:
        """The error, for who asked for the run."""
        return ValueError(self.text) if self.command_text is None else UserError(self.text, self.command_text)


def found_by(fn: Callable[[], Any]) -> Any:
    """Return the result of `fn`, or the `Fault` that ended it. Other errors end the command, since another worker may do it."""
    try:
        return fn()
    except CELL_ERRORS as error:
        return Fault(str(error), getattr(error, "command_text", None))


def made_cell(spec: CellSpec, resume: Any) -> Iterator[Piece]:
    """Yield the cell or the reference, once; or why there is none."""
    posterior, run = spec.shared.posteriors()[spec.name], spec.shared.run

    def make() -> Any:
        if spec.method is None or spec.reference is None:
            return prepare_label(posterior, run, _ignore)
        return run_cell(
            posterior, parse_method_spec(spec.method, spec.class_reg), spec.reference, run, spec.checkpoints, _ignore
        )

    yield Piece(found_by(make))


def _ignore(progress: Progress) -> None:
    """Show no progress: the command counts blocks."""


class RemoteCells:
    """Computes the references and cells of a comparison on workers.

    Args:
      remote: The workers.
      options: Options of the command.
      checkpoints: Numbers of gradients at which chains are recorded.

    Attributes:
      failed: Why a reference, by label, or a cell, by (method, label), is missing.
    """

    def __init__(self, remote: Remote, options: CompareOptions, checkpoints: Sequence[int]):
        self._remote, self._options, self._checkpoints = remote, options, tuple(checkpoints)
        self._shared = _shared(remote, options.pair, options.labels)
        self.failed: dict[Any, Exception] = {}

    def make_references(self, names: Sequence[str], keep_fn: Callable[[str, LabelReference], None]) -> None:
        """Compute the references of the labels `names`; `keep_fn` is called with each as soon as it is there."""
        works = {name: Work(made_cell, CellSpec(self._shared, name)) for name in names}
        self._make("exact draws", works, keep_fn)

    def make_cells(
        self,
        pairs: Sequence[tuple[MethodSpec, str]],
        references: Mapping[str, LabelReference],
        keep_fn: Callable[[MethodSpec, str, Cell], None],
    ) -> None:
        """Compute the cells of these methods and labels; `keep_fn` is called with each as soon as it is there."""
        methods = {method.name: method for method, _ in pairs}
        weight = self._options.class_reg
        works = {
            (method.name, name): Work(
                made_cell, CellSpec(self._shared, name, method.name, weight, references[name], self._checkpoints)
            )
            for method, name in pairs
        }
        self._make("cells", works, lambda key, cell: keep_fn(methods[key[0]], key[1], cell))

    def _make(self, title: str, works: Mapping[Any, Work], keep_fn: Callable[[Any, Any], None]) -> None:
        scheduler = self._remote.engine.scheduler
        for key, work in works.items():
            scheduler.add(key, work)
        done = 0
        with progress_bar(title, "block") as progress_fn:
            for event in scheduler.events():
                if event.error:
                    raise event.error
                if event.piece and isinstance(event.piece.value, Fault):
                    self.failed[event.key] = event.piece.value.error
                elif event.piece:
                    keep_fn(event.key, event.piece.value)
                done += event.piece is None
                progress_fn(Progress(done, len(works), NAN, NAN, NAN))


@dataclass(frozen=True)
class RunSpec:
    """A run of `tune`."""

    shared: Shared
    num_gradients: float
    recipe: Recipe
    problem: Problem


_OBJECTIVES: dict[str, Objective] = {}  # of the last command, with the starts that its runs share


def measured_run(spec: RunSpec, resume: Any) -> Iterator[Piece]:
    """Yield the cell of a run, once; or why there is none."""
    shared = spec.shared
    key = repr((shared.models.key, shared.label, shared.run, spec.num_gradients))
    if key not in _OBJECTIVES:
        _OBJECTIVES.clear()
        _OBJECTIVES[key] = Objective(shared.posteriors(), shared.run, spec.num_gradients)
    yield Piece(found_by(lambda: _OBJECTIVES[key].measure(spec.recipe, spec.problem, _ignore)))


class RemoteObjective(Objective):
    """An objective whose runs are measured by workers, those that do not depend on one another at the same time.

    Args:
      remote: The workers.
      options: What is sampled.
      here: The objective in this process.
    """

    def __init__(self, remote: Remote, options: SampleOptions, here: Objective):
        super().__init__(here.posteriors, here.run, here.num_gradients)
        self._remote, self._shared = remote, _shared(remote, options, options.label)
        self._found: dict[str, TunedCell | Fault] = {}

    def expect(self, runs: Sequence[tuple[Recipe, Problem]]) -> None:
        """Measure these runs on workers."""
        scheduler = self._remote.engine.scheduler
        for recipe, problem in runs:
            if repr((recipe, problem)) not in self._found:
                scheduler.add(
                    repr((recipe, problem)), Work(measured_run, RunSpec(self._shared, self.num_gradients, recipe, problem))
                )
        for event in scheduler.events():
            if event.error:
                raise event.error
            if event.piece:
                self._found[str(event.key)] = event.piece.value

    def measure(self, recipe: Recipe, problem: Problem, progress_fn: ProgressFn) -> TunedCell:
        """Return the cell that a worker measured; see `Objective.measure`."""
        key = repr((recipe, problem))
        if key not in self._found:
            self.expect([(recipe, problem)])
        found = self._found.pop(key)
        if isinstance(found, Fault):
            raise found.error
        return found
