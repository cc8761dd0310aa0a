"""The posterior of a finished run: its models are loaded again as run.json names them, and must be the same models.

A run may come from outside. Its run.json decides neither what is downloaded nor whether operations that tfgradgen does not know
are loaded; the caller does.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfgradgen.core.checks import check_choice, check_real, check_type, fail
from tfgradgen.core.config import MAX_FLOAT32, RunConfig, Schedule
from tfgradgen.core.contracts import Networks
from tfgradgen.core.parsing import parsing, whole_number
from tfgradgen.core.text import as_text, value_text
from tfgradgen.io.store import difference
from tfgradgen.mcmc.recipe import Recipe
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.models.classifier import load_classifier
from tfgradgen.models.discriminator import load_discriminator, natural_log_odds
from tfgradgen.models.generator import load_generator
from tfgradgen.models.loading.settings import CLASSIFIER_FLAGS, GENERATOR_FLAGS
from tfgradgen.models.precision import lower_gradients
from tfgradgen.models.shipped import handles_of, local_model
from tfgradgen.models.targets import Target, condition_target, targets_of
from tfgradgen.models.text import load_text_model
from tfgradgen.models.tokens import read_captions
from tfgradgen.posterior import ClassPosterior
from tfgradgen.results.origin import model_record
from tfgradgen.results.record import BATCH, is_of_condition
from tfgradgen.results.result import SampleResult

EXPECTED, REMEDY = "a run.json that names its models and settings", "give the folder of a run, or its posterior"
_GUESSES = ("path", "assumed", "doubts", "range_scores")  # entries of a model's record that do not determine its outputs


class Plan(NamedTuple):
    """What determines the draws of a run, from its record.

    Attributes:
      recipe: Kernel, settings and counts.
      run: The other settings; the chains are those of one label.
      labels: The label of each chain of its batch, int32 [num_chains of the batch]; None if one label ran by itself.
      first: The place in that batch of the first chain of the run.
    """

    recipe: Recipe
    run: RunConfig
    labels: np.ndarray | None
    first: int


def plan_of(record: Mapping[str, Any]) -> Plan:
    """Return the `Plan` of a run.

    Raises:
      UserError: An entry of the record is missing or invalid.
    """
    with parsing("run", EXPECTED, REMEDY):
        given, label, sampler = record["arguments"], record["label"], SAMPLERS[record["kernel"]]
        config = type(sampler.defaults)(**given["kernel_config"])
        recipe = Recipe(record["kernel"], config, Schedule(**given["schedule"]))
        init_z = given.get("init_z")
        run = RunConfig(
            num_chains=given["num_chains"],
            temperature=check_real("temperature", given["temperature"], 0.0, MAX_FLOAT32),
            seed=record["seed"],
            jit=bool(record["jit"]),
            init=given.get("init", "resample"),
            init_z=None if init_z is None else tuple(init_z),
        )
        if isinstance(label["index"], list):
            return Plan(recipe, run, np.asarray([whole_number(k) for k in label["index"]], np.int32), 0)
        if BATCH not in record:
            return Plan(recipe, run, None, 0)
        of_batch = [whole_number(k) for k in record[BATCH]["index"]]
        first = of_batch.index(label["index"]) * run.num_chains
        return Plan(recipe, run, np.repeat(np.asarray(of_batch, np.int32), run.num_chains), first)


def load_posterior(
    result: SampleResult,
    *,
    generator: str | None = None,
    classifier: str | None = None,
    discriminator: str | None = None,
    text_model: str | None = None,
    classifier_labels: str | None = None,
    reference_captions: str | None = None,
    allow_unknown_ops: bool = False,
) -> ClassPosterior:
    """Load the models of a run again and return its posterior.

    Args:
      result: A result of `sample` or `load_run`.
      generator: Where the generator is now: a folder, an archive, a TF-Hub URL or a Kaggle handle. By default it is where the
        run says, if that is on this machine; a run may come from outside, so what it says cannot cause a download.
      classifier: Likewise; several as A,B.
      discriminator: Likewise.
      text_model: Likewise, of a run with a text.
      classifier_labels: The file of the classifier's class names, or 'imagenet'. By default it is the file that the run names,
        if that lies in the folder of the run or of its classifier. Other files are read only if they are given here.
      reference_captions: The file of the reference captions of a run that was given some.
      allow_unknown_ops: Whether to load models with operations that image models do not need. Such a model can read and write
        files.

    Returns:
      The posterior. If the chains have labels of their own, it has a vector of labels.

    Raises:
      UserError: A model is missing, does not load, or is not that of the run (another sha256 or other settings).
    """
    check_type("result", result, SampleResult)
    record = result.record
    with parsing("run", EXPECTED, REMEDY):
        given, label = dict(record["arguments"]), dict(record["label"])
        names, precision = str(label["name"]), given.get("gradient_precision", "float32")
        check_choice("gradient_precision", precision, ("float32", "bfloat16"))
        weight, max_batch = given.get("discriminator_weight", 0.0), given.get("max_batch")
    lenient = allow_unknown_ops
    own = load_generator(
        _handle("generator", generator, record), **_settings(given, GENERATOR_FLAGS), allow_unknown_ops=lenient
    )
    handles = handles_of(classifier or str(given.get("classifier", ""))) or [""]
    places = handles if classifier else [_handle("classifier", None, record, handle, len(handles)) for handle in handles]
    settings = _settings(given, CLASSIFIER_FLAGS)
    if classifier_labels or isinstance(settings.get("labels"), str):
        settings["labels"] = classifier_labels or _labels_file(settings["labels"], [result.folder, *places])
    classifiers = [load_classifier(place, **settings, allow_unknown_ops=lenient) for place in places]
    own = own.with_class_names(classifiers[0].labels)
    classifiers = [each.for_generator(own) for each in classifiers]
    text = _text(record, text_model, reference_captions, lenient)
    text = text and text.for_generator(own)
    tells = None
    if "discriminator" in record:
        place = _handle("discriminator", discriminator, record)
        tells = load_discriminator(place, allow_unknown_ops=lenient).at_rate_of(own)
    if precision == "bfloat16":
        for module in (own.module, *(model.module for model in [*classifiers, *(each for each in (text, tells) if each)])):
            lower_gradients(module)
    index = label.get("index")
    is_class = len(classifiers) == 1 and classifiers[0].is_exclusive and classifiers[0].labels
    if text is not None:
        targets = targets_of(classifiers, given.get("label"), text)
        target = next((each for each in targets if each.label.name == names), targets[0])
    elif isinstance(index, list):
        target = Target(classifiers[0], 0, classifiers[0].labels[0])
    elif is_of_condition(record):
        target = condition_target(classifiers, names)
    elif is_class and isinstance(index, int) and _name(classifiers[0].labels, index) == names:
        target = Target(classifiers[0], index, classifiers[0].labels[index])
    else:
        target = targets_of(classifiers, names)[0]
    loaded = {"generator": own, "classifier": target.classifier} | ({"discriminator": tells} if tells else {})
    check_models(record, {role: model_record(model) for role, model in loaded.items()})
    if not isinstance(index, list):
        own = own.for_label(target.label)
    networks = Networks(own, target.classifier, tells and natural_log_odds(tells), weight, max_batch)
    return ClassPosterior.of(networks, index if isinstance(index, list) else target.index, plan_of(record).run.temperature)


def _text(record: Mapping[str, Any], place: str | None, captions: str | None, allow_unknown_ops: bool) -> Any:
    """Return the classifier of the text of a run; None if it has no text.

    Args:
      record: The content of run.json.
      place: Where the text model is now; None for where the run says.
      captions: The file of the reference captions; None for those of the model.
      allow_unknown_ops: See `load_posterior`.

    Raises:
      UserError: The model or the captions are not those of the run, or are not there.
    """
    given = record["arguments"]
    if given.get("text") is None:
        return None
    if captions is None and given.get("reference_captions") is not None:
        expected = "captions that you give: no file is read because a run names it"
        remedy = "give --reference_captions=FILE, if you know that file"
        raise fail("run", expected, as_text(given["reference_captions"]), remedy)
    model = load_text_model(_handle("text_model", place, record), allow_unknown_ops=allow_unknown_ops)
    found = model.classifier(given["text"], None if captions is None else read_captions(Path(captions)))
    with parsing("run", EXPECTED, REMEDY):
        (said,) = record["classifier"]["texts"]
        parts = _of_text(dict(said))
    check_models(parts, _of_text(found.about))
    return found


def _of_text(about: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what decides the probability of a text, by the flag that it comes from; the model's is first.

    Without --reference_captions, other captions are due to another model.
    """
    found: dict[str, dict[str, Any]] = {"text_model": {}, "reference_captions": {}}
    for name, value in about.items():
        found["reference_captions" if "captions" in name else "text_model"][name] = value
    return found


def _name(labels: Any, index: int) -> str | None:
    return labels[index].name if 0 <= index < len(labels) else None


def _handle(role: str, moved: str | None, record: Mapping[str, Any], handle: str | None = None, num_models: int = 1) -> str:
    """Return where the model `role` is: where the caller says, where the run says, or the shipped model if it is the same one.

    Raises:
      UserError: The run says nothing, or names a place that is not on this machine.
    """
    if moved:
        return moved
    handle = str(record["arguments"].get(role) or "") if handle is None else handle
    if not handle:
        got = "a model that was given as a Python object"
        raise fail("run", f"a {role} that run.json names", got, f"give --{role}=MODEL, or in Python pass posterior=")
    place = local_model(role, handle, num_models == 1)
    if place is not None:  # the shipped model may be another one than that of the run: `check_models` tells, once it is loaded
        return place
    raise fail("run", f"the {role} of the run on this machine", as_text(handle), f"give --{role}=MODEL, where it is now")


def _labels_file(named: str, places: Sequence[str | Path | None]) -> str:
    """Return the file of class names that a run names, if it is in one of the folders `places`, or 'imagenet'.

    Raises:
      UserError: It is elsewhere. A run may come from outside, and would have any file of this machine read.
    """
    folders = [os.path.realpath(os.path.expanduser(place)) for place in places if place is not None and "\0" not in str(place)]
    if "\0" not in named and named != "imagenet":
        file = Path(os.path.realpath(os.path.expanduser(named)))
        if not any(os.path.isdir(folder) and file.is_relative_to(folder) for folder in folders):
            expected = "class names in the folder of the run or of its classifier"
            raise fail("run", expected, as_text(named), "give --classifier_labels=FILE, if you know that file")
    return named


def _settings(given: Mapping[str, Any], flags: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of a model that the flags of the run gave. Lists of JSON become tuples again."""

    def as_given(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    return {name: as_given(given[flag]) for flag, name in flags.items() if given.get(flag) is not None}


def check_models(record: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that `models`, records by role, are those of the run.

    Raises:
      UserError: One has another sha256 or other settings; the first difference is named.
    """

    def described(model: Any) -> dict[str, Any]:
        return {name: value for name, value in dict(model).items() if name not in _GUESSES}

    for role, model in models.items():
        with parsing("run", EXPECTED, REMEDY):
            found = difference(described(model), described(record[role]))
        if found:
            name, ours, theirs = found
            expected = f"the {role} of the run, with {as_text(name)} {value_text(theirs)}"
            remedy = f"give --{role} with the right one, or in Python pass posterior="
            raise fail("run", expected, value_text(ours), remedy)


def posterior_for(result: SampleResult, chain: int, posterior: ClassPosterior | None) -> ClassPosterior:
    """Return the posterior of one chain: a given one, checked against the run, or that of `load_posterior`.

    Raises:
      UserError: A model is not that of the run, or `posterior` is something else.
    """
    if posterior is None:
        posterior = load_posterior(result)
    elif not isinstance(posterior, ClassPosterior):
        raise fail("posterior", "a tfgradgen.ClassPosterior", type(posterior).__name__, "leave it out, or build one")
    else:
        _check_same(result.record, posterior, chain)
    return posterior.copy(label=int(posterior.label[chain])) if posterior.is_batched else posterior


def _check_same(record: Mapping[str, Any], posterior: ClassPosterior, chain: int) -> None:
    """Raise `UserError` unless `posterior` is that of the run, as far as the record can tell."""
    models = {"generator": posterior.generator, "classifier": posterior.classifier}
    check_models(record, {role: model_record(model) for role, model in models.items() if getattr(model, "sha256", "")})
    with parsing("run", EXPECTED, REMEDY):
        index, temperature = record["label"]["index"], plan_of(record).run.temperature
        own = index[chain] if isinstance(index, list) else index
    label = int(posterior.label[chain]) if posterior.is_batched else int(posterior.label)
    if label != own or np.float32(temperature) != np.float32(posterior.temperature):
        expected = f"that of the run, with class {value_text(own)} at temperature {temperature:g}"
        got = f"class {label} at temperature {float(posterior.temperature):g}"
        raise fail("posterior", expected, got, "give the posterior that was sampled, or leave it out")
