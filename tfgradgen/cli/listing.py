"""Lists of the samplers, of the classes of a classifier, and of the models that come with tfgradgen."""

import os
from pathlib import Path
from typing import Any

from tfgradgen.cli.early import check_models
from tfgradgen.cli.model_options import DECLARED, model_or, parse_handle, parse_models
from tfgradgen.cli.terminal import give
from tfgradgen.core.quiet import start_tensorflow
from tfgradgen.core.text import as_text
from tfgradgen.mcmc import auto
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.models.loading.metadata import MAX_NAME, Label, fingerprint, parse_labels, read_metadata
from tfgradgen.models.shipped import MODEL_SETS, PHOTOGRAPHS, default_model, shipped_model


def list_kernels() -> None:
    """Print a line for each sampler: its name, its kind, the distribution of its draws, and its use.

    The first line is about the automatic choice among them.
    """
    names = " or ".join(kernel for kernel, _ in auto.CHOICES)
    give(f"{auto.NAME:16s}  {'-':9s}  {'depends':20s}  chooses {names} by p(class)")
    for sampler in SAMPLERS.values():
        give(f"{sampler.name:16s}  {sampler.kind:9s}  {sampler.exactness:20s}  {sampler.about}")


def list_labels(flags: dict[str, Any]) -> None:
    """Print the index, WordNet id and name of each class of the classifier that `flags` name."""
    models = DECLARED["models"].setting.parsed("models", flags.get("models", PHOTOGRAPHS))
    handle = parse_handle("classifier", model_or("classifier", flags, models))
    folder = Path(os.path.expanduser(handle))
    card = read_metadata(folder) if os.path.isdir(folder) else {}
    if isinstance(card.get("labels"), list) and flags.keys() <= {"models", "classifier", "allow_unknown_ops"}:
        names: tuple[Label, ...] = parse_labels(card["labels"], f"labels of {folder}")
    else:  # only the model knows the number of classes
        options = parse_models(flags)
        check_models(options)
        start_tensorflow()
        from tfgradgen.models.classifier import load_classifier

        names = load_classifier(handle, **options.classifier_settings, allow_unknown_ops=options.allow_unknown_ops).labels
    for index, label in enumerate(names):
        give(f"{index:4d}  {as_text(label.wnid or '-'):10s}  {as_text(label.name, MAX_NAME)}")


def list_models(models: str | None = None) -> None:
    """Print the folder of each shipped model, the content of its model.json, and its fingerprint.

    Args:
      models: The set of models; None for all that are installed.
    """
    if models is not None:
        shipped_model("generator", models)
    sets = MODEL_SETS if models is None else [models]
    shipped = [(of_set, name, default_model(name, of_set)) for of_set in sets for name in MODEL_SETS[of_set][0]]
    for of_set, name, folder in shipped:
        if of_set != PHOTOGRAPHS and not folder.is_dir():
            continue
        give(f"{name}: {as_text(folder)}")
        for key, value in read_metadata(folder).items():
            shown = f"{len(value)}, see `python -m tfgradgen labels --classifier={folder}`" if key == "labels" else value
            give(f"  {as_text(key)}: {as_text(shown)}")
        give(f"  sha256: {fingerprint(folder)}")
