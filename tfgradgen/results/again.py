"""The command that makes a run again, from its record."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from tfgradgen.core.checks import UserError
from tfgradgen.core.config import RunConfig
from tfgradgen.core.files import finite
from tfgradgen.core.text import command_text, printable
from tfgradgen.mcmc.recipe import default_recipe, settings_of
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.models.labels import OPERATORS
from tfgradgen.models.shipped import MODEL_SETS, PHOTOGRAPHS, default_model, set_of
from tfgradgen.results.record import ALONE, BATCH, VARIED, is_of_condition

NO_FLAGS = ("kernel_config", "schedule", "schedule_file", "init_z", "init_photograph", "out", "overwrite", "resume", "strict")
DEFAULTS = {
    **RunConfig().to_dict(),
    **{role: str(default_model(role)) for role in ("generator", "classifier", "discriminator")},
    "text": None,
    "text_model": str(default_model("text")),
    "reference_captions": None,
    "discriminator_weight": 0.0,
    "max_batch": None,
    "allow_unknown_ops": False,
    "netcdf": False,
    "save_images": False,
    "gradient_precision": "float32",
    "photographs": None,
    "block": None,
}


MAX_COMMAND = 8000  # characters
PATHS = ("generator", "classifier", "discriminator", "text_model", "reference_captions", "init", "photographs")
RELATIVE = " Run it in the folder in which this run was made: it has relative paths."
LENIENT = " It lets the models run operations that tfgradgen does not know: use it only if you trust them."


class Again(NamedTuple):
    """How to make a run again.

    Attributes:
      command: The command line; '' if none can do it.
      note: What to know about it, or why there is none.
    """

    command: str
    note: str


def again(record: dict[str, Any]) -> Again:
    """Return the command that makes the run of `record` again. It leaves out flags whose values are the defaults.

    The record may come from outside: names of no flag are left out, and values are quoted.
    """
    arguments, label = record["arguments"], record["label"]
    if VARIED in record:
        return _varied(record)
    if any(not arguments.get(role) for role in ("generator", "classifier")):
        return Again("", "No command can make this run again: its models were given as Python objects.")
    if isinstance(label.get("index"), list):
        return Again("", "No command can make this run again: each chain has a label of its own.")
    if arguments.get("init") == "given" and not arguments.get("init_photograph"):
        return Again("", "No command can make this run again: its chains start at a latent point that was given in Python.")
    flags = {"label": _label(record), "kernel": record["kernel"], "seed": record["seed"]}
    others = {name: value for name, value in arguments.items() if name not in (*flags, *NO_FLAGS)}
    others |= {"init": arguments["init_photograph"]} if arguments.get("init_photograph") else {}
    if arguments.get("text") and arguments.get("label") is None:  # the label is the text
        del flags["label"]
    given = {name: _word(value) for name, value in (flags | _settings(record)).items()}
    given |= {
        name: _word(value)
        for name, value in others.items()
        if (name in DEFAULTS or re.fullmatch("(generator|classifier)_[a-z_]+", name))
        and value != DEFAULTS.get(name)
        and isinstance(value, str | int | float | list)
    }
    models = {set_of(role, str(arguments[role])) for role in ("generator", "classifier")}
    if len(models) == 1 and models <= {*MODEL_SETS} - {PHOTOGRAPHS}:
        given = {name: value for name, value in given.items() if name not in ("generator", "classifier")}
        given["models"] = models.pop()
    command = command_text("sample", given)
    note = "Add --out=FOLDER to write to another folder than the default one, or --overwrite to replace the run in it."
    if "strict" not in arguments:  # a flag, which only runs of the command record
        note += " This run was made in Python. If its models were loaded with settings, add them as flags."
    elif BATCH in record:
        note += " The command draws all labels of the batch."
    if any("/" in str(given.get(name)) and not Path(str(given[name])).is_absolute() for name in PATHS):
        note += RELATIVE
    if given.get("allow_unknown_ops"):
        note += LENIENT
    return _checked(command, given, note)


def _checked(command: str, flags: dict[str, Any], note: str) -> Again:
    """Return `command` with `note`, unless it is too long or would not be the same command once it is printed."""
    if len(command) > MAX_COMMAND or any(str(value) != printable(str(value), None) for value in flags.values()):
        return Again("", "No command can make this run again: a name in it is too long, or has hidden characters.")
    return Again(command, note)


def _varied(record: dict[str, Any]) -> Again:
    """Return the command that draws the same images near a draw of another run."""
    origin = record[VARIED]
    if not origin["run"]:
        return Again("", "No command can make this run again: it comes from a result in Python that was not saved.")
    flags = {"run": origin["run"], "chain": origin["chain"], "amount": repr(origin["amount"])}
    flags |= {"num_images": record["arguments"]["num_chains"], "num_steps": origin["num_steps"], "seed": record["seed"]}
    flags |= origin.get("models", {})
    files = {name: record["arguments"].get(name) for name in ("classifier_labels", "reference_captions")}
    flags |= {name: file for name, file in files.items() if isinstance(file, str) and file != "imagenet"}
    note = "Add --out=FOLDER to write to another folder than the default one, or --overwrite to replace the run in it."
    if not all(Path(str(flags[name])).is_absolute() for name in ("run", *PATHS) if name in flags):
        note += RELATIVE
    if record["arguments"].get("allow_unknown_ops") is True:
        flags["allow_unknown_ops"] = "true"
        note += LENIENT
    return _checked(command_text("vary", flags), flags, note)


def _label(record: dict[str, Any]) -> Any:
    """Return the value of --label that draws this run: its own label, or all of its batch, even if more were requested."""
    name, asked = record["label"]["name"], record["arguments"].get("label")
    if BATCH in record:
        return record[BATCH]["name"]
    if ALONE in record:
        return record[ALONE]
    if isinstance(asked, str | int) and record["arguments"].get("text"):  # the name has the text, too
        return asked
    if isinstance(asked, str) and "," in asked:  # an older run: beside conditions, a class was a condition
        return f"({name})" if {*asked} & {*OPERATORS} and is_of_condition(record) else name
    return asked if isinstance(asked, str | int) and asked != "all" else name


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    """Return the settings and counts of the kernel that are not its defaults."""
    kernel, arguments = record["kernel"], record["arguments"]
    known, usual = settings_of(SAMPLERS[kernel]), finite(default_recipe(kernel).to_dict())
    used = {**arguments["kernel_config"], **arguments["schedule"]}
    every = {name: used[name] for name in known if name in used}
    few = {name: value for name, value in every.items() if value != usual[name]}
    # The default of a setting may depend on another setting.
    try:
        made = finite(default_recipe(kernel).changed(few).to_dict())
    except UserError:
        return every
    return few if all(made[name] == value for name, value in every.items()) else every


def _word(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value
