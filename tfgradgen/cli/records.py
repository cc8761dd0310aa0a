"""Reads what a run wrote: run.json and samples.npz, which may come from a stranger or from a disk that was full."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfgradgen.cli.output import RECORD
from tfgradgen.core.arrays import check_arrays, read_npz
from tfgradgen.core.checks import UserError
from tfgradgen.core.contracts import Draws
from tfgradgen.core.parsing import parsing, read_json, whole_number
from tfgradgen.mcmc.registry import SAMPLERS

RUN_FILE, SAMPLES_FILE = RECORD, "samples.npz"
_TABLE = ("results", "chains")
LAYOUT = {
    "z": (np.float32, (*_TABLE, "latent_dim")),
    "class_prob": (np.float32, _TABLE),
    "target_log_prob": (np.float32, _TABLE),
    "is_accepted": (np.bool_, _TABLE),
    "step_size": (np.float32, _TABLE),
    "log_accept_ratio": (np.float32, _TABLE),
}
LAYOUT_OF_IMAGE = {"image": (np.uint8, ("chains", "height", "width", "channels"))}


def read_run(folder: Path, what: str, remedy: str) -> tuple[dict[str, Any], Draws, np.ndarray]:
    """The record, the draws and the images [num_chains, height, width, channels] uint8 of a run's folder.

    Args:
      what: the flag or the command that names the folder. remedy: what to do where it holds no run.

    Raises:
      UserError: a file is missing, damaged, of another version or of something else than a run.
    """
    with parsing(what, f"a run's folder with {RUN_FILE} and {SAMPLES_FILE} at {folder}", remedy):
        record = checked_record(read_json(folder / RUN_FILE))
        arrays = read_npz(folder / SAMPLES_FILE, [*LAYOUT, *LAYOUT_OF_IMAGE])
        sizes = check_arrays(arrays, LAYOUT | LAYOUT_OF_IMAGE)
        if not all(sizes.values()):
            raise ValueError(f"{SAMPLES_FILE} without draws")
        image = arrays.pop("image")
    return record, Draws(**arrays), image


def checked_record(record: Any) -> dict[str, Any]:
    """`record` if it is what run.json holds: every entry that is read again has the type that it was written with.

    Raises:
      KeyError, TypeError, ValueError: it is something else; `parsing` turns each into one line.
    """
    if not isinstance(record, dict):
        raise TypeError(f"a {RUN_FILE} that is no object")
    for name, check_fn in _ENTRIES.items():
        _check_entry(record, name, check_fn)
    try:
        type(SAMPLERS[record["kernel"]].defaults)(**record["arguments"]["kernel_config"])
    except (UserError, TypeError) as error:
        raise ValueError(f"a {RUN_FILE} whose settings of the kernel are none: {error}") from error
    return record


def _check_entry(record: Mapping[str, Any], name: str, check_fn: Callable[[Any], Any]) -> None:
    if name not in record:
        raise KeyError(f"{name} in {RUN_FILE}")
    try:
        check_fn(record[name])
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"a {RUN_FILE} whose {name} {error if isinstance(error, TypeError | ValueError) else 'is not whole'}"
        ) from error


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("is no object")
    return value


def _text(value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError("is no text")


def _texts(value: Any) -> None:
    if not isinstance(value, list):
        raise TypeError("is no list of texts")
    for each in value:
        _text(each)


def _label(value: Any) -> None:
    _text(_mapping(value)["name"])


def _kernel(value: Any) -> None:
    _text(value)
    if value not in SAMPLERS:
        raise ValueError("this version does not have")


def _arguments(value: Any) -> None:
    _mapping(_mapping(value)["kernel_config"])
    whole_number(_mapping(value["schedule"])["num_results"], 1)


def _count(value: Any) -> None:
    if value is not None:
        whole_number(value)


def _seconds(value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf or value > 1e18:
        raise TypeError("is no time")


_ENTRIES: dict[str, Callable[[Any], Any]] = {
    "label": _label,
    "kernel": _kernel,
    "arguments": _arguments,
    "doubts": _texts,
    "problems": _texts,
    "num_gradients": whole_number,
    "num_forward": whole_number,
    "num_not_finite": _count,
    "num_scored": _count,
    "seconds": _seconds,
    "generator": _mapping,
    "classifier": _mapping,
    "versions": _mapping,
    **dict.fromkeys(("device", "machine", "backend", "seed"), lambda value: value),
}
