"""The `compare` command: samples the missing cells, measures all cells, and writes the report."""

import functools
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tfgradgen.cli.compare_options import CompareOptions
from tfgradgen.cli.load import Loaded, load_models, start_at_photograph
from tfgradgen.cli.model_options import non_default_flags
from tfgradgen.cli.output import COMPARISON, is_resumed, say_time, workspace
from tfgradgen.cli.progress import progress_bar
from tfgradgen.cli.remote import remote_of
from tfgradgen.cli.remote_cells import RemoteCells
from tfgradgen.cli.surroundings import environment_at
from tfgradgen.cli.terminal import note, one_line, say
from tfgradgen.core.checks import fail, renamed
from tfgradgen.core.contracts import GeneratorLike
from tfgradgen.core.files import json_text, write_text
from tfgradgen.core.text import as_text, command_text
from tfgradgen.diagnostics.issues import with_page
from tfgradgen.diagnostics.model_checks import admit
from tfgradgen.engine.engine import running
from tfgradgen.evaluation.cell_cache import CellCache
from tfgradgen.evaluation.cells import (
    Cell,
    LabelReference,
    checkpoints_up_to,
    is_cell,
    is_label_reference,
    prepare_label,
    run_cell,
)
from tfgradgen.evaluation.comparison import Comparer, Comparison, Sampled, compare
from tfgradgen.evaluation.method_specs import MethodSpec, parse_method_spec
from tfgradgen.evaluation.nearest import check_images
from tfgradgen.evaluation.report.catalogue import MEASURES, OF_PHOTOGRAPHS
from tfgradgen.evaluation.report.curves import plot_curves
from tfgradgen.evaluation.report.grids import plot_grids
from tfgradgen.evaluation.report.pictures import PICTURES, sources, write_pictures
from tfgradgen.evaluation.report.tables import to_csv, to_markdown
from tfgradgen.evaluation.scored_images import (
    Observer,
    Photographs,
    load_observer,
    load_photographs,
    observe_photographs,
)
from tfgradgen.io.folders import REPORT, safe_filename
from tfgradgen.io.images import save_png
from tfgradgen.mcmc.budget import CELL_ERRORS
from tfgradgen.media.image import Image
from tfgradgen.media.medium import Medium
from tfgradgen.media.registry import MEDIA, MEDIUM, decoded, medium_in
from tfgradgen.models.classifier import Classifier
from tfgradgen.models.generator import Generator
from tfgradgen.models.shipped import default_model
from tfgradgen.posterior import ClassPosterior
from tfgradgen.results.origin import model_record
from tfgradgen.results.record import surroundings
from tfgradgen.viewing.document import Document, render_document

CELLS, REFERENCE = "cells", "reference"
PHOTOGRAPHS_FILE = "photographs.npz"
NO_TEXTS = "the judge knows classes, no texts; its features measure the diversity and the distance from exact draws"
WHAT_FAILS = ", ".join(MEASURES[name].head for name in OF_PHOTOGRAPHS)
NO_PHOTOGRAPHS = "no photographs of these classes seen by this judge; give --photographs"
FIGURES_BESIDE = "table.csv and report.json have all figures"


def run_compare(options: CompareOptions) -> int:
    """Write the folder of a comparison, and return the number of failed cells."""
    out = options.out
    is_begun = is_resumed(out, options.resume, "a comparison", *COMPARISON)
    with running(options.pair.place) as engine:
        loaded = load_models(options.pair.models)
        if engine:
            loaded = loaded._replace(remote=remote_of(engine, options.pair.models, loaded))
        return _run(options, loaded, is_begun)


def _run(options: CompareOptions, loaded: Loaded, is_begun: bool) -> int:
    out, lenient = options.out, options.pair.models.allow_unknown_ops
    with renamed("label", "labels"):
        targets = loaded.targets(options.labels)
    options = replace(options, pair=start_at_photograph(options.pair, loaded, targets))
    medium, shipped = loaded.generator.medium, str(default_model("discriminator", options.pair.models.models))
    if medium.kind != Image.kind and options.discriminator == shipped:  # that of photographs, which is the default
        say(f"without  log p(natural): the shipped discriminator knows images, no {medium.plural}")
        options = replace(options, discriminator=None)
    observer = load_observer(options.judge, options.discriminator, lenient, loaded.generator, loaded.text is None)
    if not observer.has_classes:
        say(f"without  judge accuracy and judge log p: {NO_TEXTS}")
    names = [target.label.name for target in targets]
    try_out(observer, loaded.generator, names)
    photographs = find_photographs(options, names, observer, loaded.generator)
    resumes, start = "--resume goes on with them", time.monotonic()
    with workspace(out, f"finished cells are in {out}, {resumes}", f"finished cells are kept, {resumes}"):
        failed = _run_locked(options, loaded, observer, photographs)
    say_time(start, is_begun)
    say(
        f"wrote    {as_text(options.out)}: {REPORT} (open it in a browser), report.md, table.csv, report.json, curves.png, "
        f"grids.png, {PICTURES}/, {CELLS}/"
    )
    return failed


def _run_locked(options: CompareOptions, loaded: Loaded, observer: Observer, photographs: Photographs | None) -> int:
    checkpoints = checkpoints_up_to(options.num_gradients)
    specs = [parse_method_spec(name, options.class_reg) for name in options.kernels]
    posteriors = {t.label.name: ClassPosterior.of(loaded.networks(t), t.index) for t in loaded.targets(options.labels)}
    cache = CellCache(options.out / CELLS, identity(options, loaded))
    remote = RemoteCells(loaded.remote, options, checkpoints) if loaded.remote else None
    sampled = sample_all(options, specs, posteriors, cache, checkpoints, remote)
    generators = {name: posteriors[name].generator for name in sampled.labels}
    comparer = Comparer(sampled, generators, observer, photographs)

    def tell(name: str) -> None:
        note(f"measuring {name}")

    found = compare(comparer, specs, options.pair.run.num_chains, len(checkpoints), tell)
    report = {
        "command": command_line(options),
        "labels": sampled.labels,
        "num_chains": options.pair.run.num_chains,
        "num_gradients": options.num_gradients,
        "checkpoints": checkpoints,
        "rows": found.rows,
        "warnings": sampled.warnings,
        "left_out": left_out(observer, photographs),
        MEDIUM: loaded.generator.medium.record,
        "record": {
            "arguments": options.to_dict(),
            "generator": model_record(loaded.generator),
            "classifiers": [model_record(classifier) for classifier in loaded.classifiers],
            **text_record(loaded),
            "judge": model_record(observer.judge),
            **({"discriminator": model_record(observer.discriminator)} if observer.discriminator else {}),
            **environment_at(loaded, options.pair.run.jit),
        },
    }
    write_report(options.out, report, found, generators)
    return len(sampled.failed)


def left_out(observer: Observer, photographs: Photographs | None) -> dict[str, str]:
    """Return the measures that the report leaves out, with the reason; '' if none need be given."""
    others = dict.fromkeys({medium.distance_name for medium in MEDIA.values()} - {observer.medium.distance_name}, "")
    unjudged = {} if observer.has_classes else {"judge_accuracy": NO_TEXTS, "judge_log_prob": NO_TEXTS}
    unnatural = {} if observer.discriminator else {"log_natural": "these models have no discriminator"}
    return others | unjudged | unnatural | ({} if photographs else dict.fromkeys(OF_PHOTOGRAPHS, why_none(observer.medium)))


def why_none(medium: Medium) -> str:
    """Return why there are no photographs to compare with."""
    return NO_PHOTOGRAPHS if medium.kind == Image.kind else f"there are no recorded {medium.plural} to compare with"


def sample_all(
    options: CompareOptions,
    specs: Sequence[MethodSpec],
    posteriors: Mapping[str, ClassPosterior],
    cache: CellCache,
    checkpoints: Sequence[int],
    remote: RemoteCells | None = None,
) -> Sampled:
    """Return all cells. Those in the cache are reused; the others are sampled method by method, so that each compiles once.

    Args:
      options: Options of the command.
      specs: The methods.
      posteriors: Posteriors by label.
      cache: Finished cells.
      checkpoints: Numbers of gradients at which chains are recorded.
      remote: Workers that compute cells; None for this process.

    Raises:
      UserError: No label can be sampled.
    """
    run, sampled = options.pair.run, Sampled()
    total = len(posteriors) * (1 + len(specs))
    indices = {name: number_of(posterior, name) for name, posterior in posteriors.items()}
    latent_dim = next(iter(posteriors.values())).latent_dim
    reference_fits = functools.partial(is_label_reference, num_chains=run.num_chains, latent_dim=latent_dim)
    cell_fits = functools.partial(is_cell, num_checkpoints=len(checkpoints), num_chains=run.num_chains, latent_dim=latent_dim)
    settings_of_label = {name: dict[str, Any](label=index, method=None) for name, index in indices.items()}

    def known(name: str) -> LabelReference | None:
        place = folder_of(indices[name], name)
        return cache.get(place, REFERENCE, LabelReference, settings_of_label[name], reference_fits)

    def keep(name: str, reference: LabelReference) -> None:
        cache.put(folder_of(indices[name], name), REFERENCE, reference, settings_of_label[name])

    if remote:
        remote.make_references([name for name in posteriors if known(name) is None], keep)
    for number, (name, posterior) in enumerate(posteriors.items(), 1):
        reference = known(name)
        if reference is None:
            try:
                if remote:
                    raise remote.failed[name]
                with progress_bar(f"{number} of {total}, exact draws of {name}") as progress_fn:
                    reference = prepare_label(posterior, run, progress_fn)
            except CELL_ERRORS as error:
                for spec in specs:
                    note_failure(sampled, spec, name, error)
                continue
            keep(name, reference)
        # The checks are not in the cache: they take a few forward passes, and the report of a resumed comparison has them too.
        for line in admit(posterior, run, takes_gradients=False).warnings:
            sampled.warnings.append(with_page("models", f"{as_text(name)}: {line}"))
            say(f"warning  {sampled.warnings[-1]}")
        sampled.references[name] = reference
    if not sampled.references:
        raise fail("labels", "a class that can be sampled", "none", "the reasons are printed above")
    cells = [(spec, name) for spec in specs for name in sampled.references]

    def settings_of_cell(spec: MethodSpec, name: str) -> dict[str, Any]:
        config, points = spec.config.to_dict(), list(checkpoints)
        return {"label": indices[name], "method": spec.name, "config": config, "checkpoints": points}

    def known_cell(spec: MethodSpec, name: str) -> Cell | None:
        return cache.get(folder_of(indices[name], name), spec.name, Cell, settings_of_cell(spec, name), cell_fits)

    def keep_cell(spec: MethodSpec, name: str, cell: Cell) -> None:
        cache.put(folder_of(indices[name], name), spec.name, cell, settings_of_cell(spec, name))

    if remote:
        missing = [pair for pair in cells if known_cell(*pair) is None]
        remote.make_cells(missing, sampled.references, keep_cell)
    for number, (spec, name) in enumerate(cells, total - len(cells) + 1):
        cell = known_cell(spec, name)
        if cell is None:
            try:
                if remote:
                    raise remote.failed[spec.name, name]
                with progress_bar(f"{number} of {total}, {spec.name} for {name}") as progress_fn:
                    cell = run_cell(posteriors[name], spec, sampled.references[name], run, checkpoints, progress_fn)
            except CELL_ERRORS as error:
                note_failure(sampled, spec, name, error)
                continue
            keep_cell(spec, name, cell)
        sampled.cells[spec.name, name] = cell
    return sampled


def note_failure(sampled: Sampled, spec: MethodSpec, name: str, error: Exception) -> None:
    """Print why a cell is missing, and keep the reason for the report."""
    reason = one_line(error)
    sampled.failed[spec.name, name] = reason
    say(f"failed   {spec.name} for {as_text(name)}: {reason}")


def try_out(observer: Observer, generator: Generator, names: Sequence[str]) -> None:
    """Evaluate the observer on two images of the generator before a long run.

    Raises:
      UserError: The observer does not know a class of `names`, or does not accept the images.
    """
    image = decoded(generator, np.zeros((2, generator.latent_dim), np.float32))[1]
    for name in names if observer.has_classes else ():
        observer.class_index(name)
    try:
        observer.observe(image, names[0])
    except CELL_ERRORS as error:
        said, remedy = one_line(error).rstrip("."), "give others, or export them again"
        raise fail("judge", "networks that take what the generator makes", said, remedy) from error


def identity(options: CompareOptions, loaded: Loaded) -> dict[str, Any]:
    """Return everything that determines the bits of the cells."""
    run = options.pair.run.to_dict()
    return run | {
        **surroundings(environment_at(loaded, run.pop("jit"))),
        "generator": loaded.generator.sha256,
        "classifiers": [classifier.sha256 for classifier in loaded.classifiers],
        **text_record(loaded),
    }


def text_record(loaded: Loaded) -> dict[str, Any]:
    """Return the text and what decides its probability, as a run's record has it; {} without a text."""
    return {"text_model": loaded.text.about} if loaded.text else {}


def number_of(posterior: ClassPosterior, name: str) -> int:
    """Return a number for the folder of a label: the class index, or the CRC-32 of the name of a condition.

    All conditions have the same index.
    """
    return int(posterior.label) if isinstance(posterior.classifier, Classifier) else zlib.crc32(name.encode())


def folder_of(index: int, name: str) -> str:
    """Return the folder name of a label's cells. The index is part of it, because two names can give the same file name."""
    return f"{index:04d}_{safe_filename(name)}"


def find_photographs(
    options: CompareOptions, names: Sequence[str], observer: Observer, generator: Generator
) -> Photographs | None:
    """Return the photographs of these classes, scored by the observer.

    They are those of --photographs, or else the shipped scores of the shipped classes' photographs by the shipped judge; None
    if the latter do not fit the observer and `names`.

    Raises:
      UserError: --photographs cannot be read or has too few, or the generator gives no images.
    """
    if options.photographs:
        check_images(observer.medium)
    if observer.medium.kind != Image.kind:
        say(f"without  {WHAT_FAILS}: {why_none(observer.medium)}")
        return None
    if options.photographs:
        return observe_photographs(options.photographs, names, observer, generator.image_shape)
    shipped = load_photographs(default_model("photographs") / PHOTOGRAPHS_FILE)
    if shipped.sha256 == observer.sha256 and set(names) <= set(shipped.scored):
        return shipped
    say(f"without  {WHAT_FAILS}: {why_none(observer.medium)}")
    return None


def command_line(options: CompareOptions) -> str:
    """Return the command line that repeats the comparison."""
    run = options.pair.run
    flags = {
        **({} if options.labels is None else {"labels": options.labels}),
        "kernels": options.kernels,
        **{name: getattr(options, name) for name in ("num_gradients", "class_reg")},
        **{name: getattr(run, name) for name in ("num_chains", "seed")},
        "init": options.pair.init_photograph or run.init,
        **non_default_flags(options.pair.models),
        **{
            name: getattr(options, name)
            for name in ("judge", "discriminator")
            if getattr(options, name) not in (None, str(default_model(name, options.pair.models.models)))
        },
        **({"photographs": options.photographs} if options.photographs else {}),
    }
    return command_text("compare", flags)


def files_beside(medium: Medium) -> str:
    """Return the last line of report.html, about the files beside it."""
    if not medium.joined_name:
        return f"{FIGURES_BESIDE}; grids.png and {PICTURES}/ have the images in full size."
    return f"{FIGURES_BESIDE}; {PICTURES}/ has the {medium.plural}, and their stills in full size, as grids.png."


def write_report(out: Path, report: dict[str, Any], found: Comparison, generators: Mapping[str, GeneratorLike]) -> None:
    """Write all files except the cells, each atomically: to a temporary name that is then renamed."""
    images = {"curves.png": plot_curves(report), "grids.png": plot_grids(found.scored, report["labels"])}
    for name, image in images.items():
        save_png(out / name, image)
    medium, version = medium_in(report), report["record"]["versions"]["tfgradgen"]
    joined = write_pictures(out, found.scored, found.z, generators, medium)
    page, played = to_markdown(report, joined), sources(out, joined.values(), medium.mime)
    for name, text in {
        "table.csv": to_csv(report),
        "report.md": page,
        REPORT: render_document(Document(page, images, files_beside(medium), version, played)),
        "report.json": json_text(report, 1) + "\n",
    }.items():
        write_text(out / name, text)
