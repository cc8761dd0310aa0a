"""Checks before TensorFlow is imported and models are loaded: unknown labels, unusable folders, missing models.

They find only some errors. Everything is checked in full once the models are loaded.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfgradgen.cli.beside import check_base
from tfgradgen.cli.compare_options import CompareOptions
from tfgradgen.cli.export_options import ExportOptions
from tfgradgen.cli.model_options import ModelOptions
from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.output import COMPARISON, SEARCH, check_folders, choose_folders, next_version
from tfgradgen.cli.tune_options import TuneOptions, read_control
from tfgradgen.core.checks import fail, renamed
from tfgradgen.io.folders import check_resumable, check_target
from tfgradgen.io.photographs import check_place
from tfgradgen.models.labels import OPERATORS, named, resolve_labels, split_names
from tfgradgen.models.loading.handles import check_handle
from tfgradgen.models.loading.metadata import Label, parse_labels, read_metadata
from tfgradgen.models.loading.settings import ClassifierSettings, GeneratorSettings, settings_of
from tfgradgen.models.tokens import MAX_LENGTH, caption_name, read_captions, read_tokenizer
from tfgradgen.tuning.space import check_fits

PROBABILITIES = ("logits", "probabilities")  # outputs of a classifier with exclusive classes


def check_sample(options: SampleOptions) -> None:
    """Raise `UserError` if `sample` is sure to fail."""
    check_models(options.models)
    if options.photographs:
        check_place(options.photographs)
    if options.label is None:
        names = [options.models.text or ""]
    else:
        found = label_names(options.models, options.label)
        if found is None or options.models.text is not None:
            return
        names = found
    every = known_of(options.models)[0] or ()
    is_all = {label.name for label in every if not label.background} == set(names)
    check_folders(options, choose_folders(options, names, is_all))


def check_check(options: SampleOptions) -> None:
    """Raise `UserError` if `check` is sure to fail."""
    check_models(options.models)
    label_names(options.models, options.label)


def check_compare(options: CompareOptions) -> None:
    """Raise `UserError` if `compare` is sure to fail."""
    check_resumable(options.out, options.resume, "a comparison", *COMPARISON)
    check_models(options.pair.models)
    for handle in filter(None, (options.judge, options.discriminator)):
        check_handle(handle)
    if options.photographs:
        check_place(options.photographs)
    with renamed("label", "labels"):
        label_names(options.pair.models, options.labels)


def check_tune(options: TuneOptions) -> None:
    """Raise `UserError` if `tune` is sure to fail."""
    check_resumable(options.out, options.resume, "a search", *SEARCH)
    read_control(options)
    check_fits(options.kernel, options.num_gradients, options.fixed)
    check_models(options.sampled.models)
    label_names(options.sampled.models, options.sampled.label)


def check_export(options: ExportOptions) -> None:
    """Raise `UserError` if `export` is sure to fail."""
    check_version(options)
    check_models(options.pair.models)
    with renamed("label", "labels"):
        label_names(options.pair.models, options.labels)


def check_version(options: ExportOptions) -> Path:
    """Return the folder of the requested version, or of the next free one.

    Raises:
      UserError: `--out` is a folder of something else, the version exists, or its folder cannot be created.
    """
    check_base(options.out)
    folder = options.out / str(options.version or next_version(options.out))
    if folder.exists():
        raise fail(
            "version",
            f"one that is not in {options.out} yet",
            options.version,
            f"--version={next_version(options.out)} is free",
        )
    check_target(folder, overwrite=False)
    return folder


def check_models(options: ModelOptions) -> None:
    """Check that the models exist and that the flags can describe them, without downloading or unpacking anything.

    Raises:
      UserError: A model is missing, or a flag about it is invalid; the first error is raised.
    """
    settings_of(GeneratorSettings, options.generator_settings)
    settings_of(ClassifierSettings, options.classifier_settings)
    models = [options.generator, *options.classifiers, *([options.discriminator] if options.discriminator else [])]
    models += [options.text_model] if options.text else []
    for handle in models:
        check_handle(handle)
    if options.text:
        _check_images(options)
        _check_words(options, options.text)


def _check_images(options: ModelOptions) -> None:
    """Raise `UserError` if the card of the generator says that it makes no images, which are all that a text model takes."""
    folder = Path(os.path.expanduser(options.generator))
    kind = read_metadata(folder).get("kind", "image") if os.path.isdir(folder) else "image"
    if kind != "image":
        remedy = "leave it out, and name a class"
        raise fail("--text", "a generator of images", f"one of the kind {kind}: {options.generator}", remedy)


def _check_words(options: ModelOptions, text: str) -> None:
    """Raise `UserError` if the text or a caption has a word that the text model, if it is a folder, does not know."""
    captions = () if options.captions is None else read_captions(options.captions)
    folder = Path(os.path.expanduser(options.text_model))
    tokenizer = read_tokenizer(folder, read_metadata(folder), str(folder)) if os.path.isdir(folder) else None
    if tokenizer:
        tokenizer.encode([text, *captions], ["text", *map(caption_name, captions)], MAX_LENGTH)


def known_of(options: ModelOptions) -> list[tuple[Label, ...] | None]:
    """Return the labels of each classifier; None if no local model.json lists them, or a flag replaces them."""
    found: list[tuple[Label, ...] | None] = []
    for handle in options.classifiers:
        folder = Path(os.path.expanduser(handle))
        listed = read_metadata(folder).get("labels") if os.path.isdir(folder) else None
        is_known = isinstance(listed, list) and "labels" not in options.classifier_settings
        found.append(parse_labels(listed, f"labels of {folder}") if is_known else None)
    return found


def label_names(options: ModelOptions, wanted: Any) -> list[str] | None:
    """Return the names of the classes that `wanted` stands for; None if it is None, a condition or what only models can tell.

    Raises:
      UserError: The classifier does not have such a class.
    """
    labelled = known_of(options)
    first = labelled[0]
    if first is None or wanted is None or _is_condition(wanted, [labels or () for labels in labelled]):
        return None
    names = [first[index].name for index in resolve_labels(first, wanted)]
    folder = Path(os.path.expanduser(options.classifiers[0]))
    output = options.classifier_settings.get("output") or read_metadata(folder).get("output")
    return names if output in PROBABILITIES else None  # with other outputs each class is a condition, named by its text


def _is_condition(wanted: Any, labelled: Sequence[Sequence[Label]]) -> bool:
    if not isinstance(wanted, str) or any(named(labels, wanted) is not None for labels in labelled):
        return False
    return any(set(part) & set(OPERATORS) for part in split_names(labelled, wanted))
