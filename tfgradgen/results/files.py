"""Writing and reading the files of a run. The files that are read may be damaged or come from outside."""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tfgradgen.core.arrays import check_arrays, read_npz
from tfgradgen.core.checks import UserError, check_real
from tfgradgen.core.config import Schedule
from tfgradgen.core.contracts import Draws
from tfgradgen.core.files import json_text, write_bytes, write_text
from tfgradgen.core.parsing import parsing, read_json, whole_number
from tfgradgen.core.text import as_text
from tfgradgen.diagnostics.convergence import Convergence
from tfgradgen.diagnostics.netcdf import write_netcdf
from tfgradgen.diagnostics.plots import plot_chains
from tfgradgen.io.folders import RECORD, REPORT
from tfgradgen.io.images import make_grid, save_png
from tfgradgen.mcmc.importance import FIT_FIGURES
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.media.registry import MEDIUM, medium_in
from tfgradgen.results.page import page_of
from tfgradgen.results.record import ALONE, AUTO, BATCH, BLOCK, FIT, NEAREST, PLACES, PROJECTION, TIME_BUDGET, VARIED
from tfgradgen.results.summary import UNITS, kind_of, legend_of, sizes_text, title_of
from tfgradgen.viewing.report import render

RUN_FILE, SAMPLES_FILE, FILM, NETCDF = RECORD, "samples.npz", "film.png", "chains.nc"
_TABLE = ("results", "chains")
LAYOUT = {
    "z": (np.float32, (*_TABLE, "latent_dim")),
    "class_prob": (np.float32, _TABLE),
    "target_log_prob": (np.float32, _TABLE),
    "is_accepted": (np.bool_, _TABLE),
    "step_size": (np.float32, _TABLE),
    "log_accept_ratio": (np.float32, _TABLE),
}
PHOTOGRAPH = "photograph"  # in samples.npz of some runs: uint8 [chains, height, width, 3], nearest to each image


def read_run(folder: str | os.PathLike[str], what: str, remedy: str) -> tuple[dict[str, Any], Draws, np.ndarray]:
    """Return the record, the draws and what is stored of each chain's last draw, [num_chains, ...], in the folder of a run.

    Args:
      folder: The folder.
      what: The flag or command that names the folder, for errors.
      remedy: What to do if it holds no run, for errors.

    Raises:
      UserError: A file is missing, damaged, from another version, or not part of a run.
    """
    with parsing(what, f"a run's folder with {RUN_FILE} and {SAMPLES_FILE} at {as_text(folder)}", remedy):
        folder = Path(folder).expanduser()
        record = checked_record(read_json(folder / RUN_FILE))
        kind = medium_in(record).kind
        arrays = read_npz(folder / SAMPLES_FILE, [*LAYOUT, kind])
        stored = arrays.pop(kind)
        sizes = check_arrays(arrays, LAYOUT)
        if not all(sizes.values()) or not stored.size:
            raise ValueError(f"{SAMPLES_FILE} without draws")
        if len(stored) != sizes["chains"]:
            raise ValueError(f"{kind} of {len(stored)} chains")
        medium_in(record, stored).check_stored(stored)
    return record, Draws(**arrays), stored


def read_nearest(folder: Path, record: Mapping[str, Any], images: np.ndarray) -> np.ndarray | None:
    """Return the photographs nearest to the `images` of a run, uint8 [num_chains, height, width, 3]; None if it has none.

    Raises:
      UserError: They are damaged, or do not fit the images.
    """
    if NEAREST not in record:
        return None
    with parsing("run", f"the photographs that its {RUN_FILE} lists", "make the run again"):
        found = read_npz(folder / SAMPLES_FILE, [PHOTOGRAPH])[PHOTOGRAPH]
        wanted = (*images.shape[:3], 3)
        if found.dtype != np.uint8 or found.shape != wanted or len(record[NEAREST]["tiles"]) != len(images):
            raise ValueError(f"photographs {list(found.shape)}, not {list(wanted)}")
    return found


def checked_record(record: Any) -> dict[str, Any]:
    """Return `record` if every entry that is used has the type that run.json gives it. Use it within `parsing`.

    Raises:
      KeyError, TypeError, ValueError: An entry is missing or has another type.
    """
    if not isinstance(record, dict):
        raise TypeError(f"a {RUN_FILE} that is not an object")
    for name, check_fn in _ENTRIES.items():
        _check_entry(record, name, check_fn)
    for name, check_fn in _OPTIONAL_ENTRIES.items():
        if name in record:
            _check_entry(record, name, check_fn)
    check_real("temperature", record["arguments"].get("temperature", 1.0), 0.0)
    try:
        type(SAMPLERS[record["kernel"]].defaults)(**record["arguments"]["kernel_config"])
    except (UserError, TypeError) as error:
        raise ValueError(f"a {RUN_FILE} with invalid kernel settings: {error}") from error
    return record


def checked_summary(record: Mapping[str, Any], draws: Draws, what: str, remedy: str) -> None:
    """Raise `UserError` unless the entries of `record` that the summary shows are valid and fit `draws`.

    `what` and `remedy` are those of `read_run`.
    """
    with parsing(what, f"a {RUN_FILE} that fits its {SAMPLES_FILE}", remedy):
        for name, check_fn in _SUMMARY_ENTRIES.items():
            _check_entry(record, name, check_fn)
        arguments = record["arguments"]
        counts = Schedule(**arguments["schedule"]), whole_number(arguments["num_chains"], 1)
        if (counts[0].num_results, counts[1]) != draws.class_prob.shape:
            raise ValueError(f"draws {list(draws.class_prob.shape)} that do not match its schedule")
        check_real("temperature", arguments["temperature"], 0.0)
        if not record["prior_draws"] and not record["evidence"]:
            raise ValueError("neither prior draws nor evidence")


def _check_entry(record: Mapping[str, Any], name: str, check_fn: Callable[[Any], Any]) -> None:
    if name not in record:
        raise KeyError(f"{name} in {RUN_FILE}")
    try:
        check_fn(record[name])
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"a {RUN_FILE} whose {name} {error if isinstance(error, TypeError | ValueError) else 'is incomplete'}"
        ) from error


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("is not an object")
    return value


def _text(value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError("is not text")


def _texts(value: Any) -> None:
    if not isinstance(value, list):
        raise TypeError("is not a list of strings")
    for each in value:
        _text(each)


def _label(value: Any) -> None:
    _text(_mapping(value)["name"])
    index = value.get("index", 0)
    for each in index if isinstance(index, list) else [index]:
        whole_number(each)


def _batch(value: Any) -> None:
    for index in _mapping(value)["index"]:
        whole_number(index)
    _texts(value["name"])


def _fit(value: Any) -> None:
    for name in FIT_FIGURES:
        _number(_mapping(value)[name])
    whole_number(value["num_paths"], 1)


def _varied(value: Any) -> None:
    _text(_mapping(value)["run"])
    whole_number(value["chain"])
    _number(value["amount"])
    whole_number(value["num_steps"], 1)
    for role, place in _mapping(value.get("models", {})).items():
        if role not in PLACES:
            raise ValueError("names an unknown model")
        _text(place)


def _nearest(value: Any) -> None:
    _text(_mapping(value)["photographs"])
    for name in ("num_photographs", "num_near"):
        whole_number(value[name])
    for name in ("low", "median"):
        _seconds(value[name])
    for tile in list(value["tiles"]):
        _text(_mapping(tile)["photograph"])
        _seconds(tile["distance"])


def _projection(value: Any) -> None:
    _text(_mapping(value)["by"])
    for name in ("pixel_rmse", "prior_pixel_rmse", "feature_distance", "prior_feature_distance"):
        _number(value[name])
    _text(value.get("sha256", ""))


def _budget(value: Any) -> None:
    _seconds(_mapping(value)["seconds"])
    whole_number(value["num_results"], 1)


def _auto(value: Any) -> None:
    for name in ("mass", "error"):
        _seconds(_mapping(value)[name])
    whole_number(value["num_draws"], 1)


def _kernel(value: Any) -> None:
    _text(value)
    if value not in SAMPLERS:
        raise ValueError("is unknown to this version")


def _arguments(value: Any) -> None:
    _mapping(_mapping(value)["kernel_config"])
    whole_number(_mapping(value["schedule"])["num_results"], 1)
    for name in ("num_burnin_steps", "num_adaptation_steps"):
        whole_number(value["schedule"].get(name, 0))
    whole_number(value.get(BLOCK, 1), 1)


def _count(value: Any) -> None:
    if value is not None:
        whole_number(value)


def _number(value: Any) -> None:
    if value is not None and (not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e300):
        raise TypeError("is not a number")


def _numbers(value: Any) -> None:
    if value is not None and not isinstance(value, list):
        raise TypeError("is not a list of numbers")
    for each in value or ():
        _number(each)


def _seconds(value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf or value > 1e18:
        raise TypeError("is not a duration")


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
# Of newer runs, and of some only.
_OPTIONAL_ENTRIES: dict[str, Callable[[Any], Any]] = {
    MEDIUM: lambda value: medium_in({MEDIUM: value}),
    ALONE: _text,
    BATCH: _batch,
    AUTO: _auto,
    FIT: _fit,
    VARIED: _varied,
    TIME_BUDGET: _budget,
    PROJECTION: _projection,
    NEAREST: _nearest,
    "image_doubts": _texts,
    **dict.fromkeys(("prior_class_prob", "prior_class_prob_error"), _number),
    **dict.fromkeys(("prior_draws", "exact_starts"), _count),
}
_SUMMARY_ENTRIES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("accept_rate", "prior_class_prob", "prior_class_prob_error"), _number),
    **dict.fromkeys(("prior_draws", "exact_starts"), _count),
    "evidence": _numbers,
    "backend": _text,
    "seed": whole_number,
}


def best_first_order(prob: np.ndarray) -> np.ndarray:
    """Return the chains in falling order of `prob` [num_chains], unknown ones last."""
    return np.argsort(-np.nan_to_num(prob, nan=-1.0), kind="stable")


def grid_of(record: Mapping[str, Any], draws: Draws, images: np.ndarray, best_first: bool = False) -> Image.Image:
    """Return grid.png: a still of each chain's last draw, in a square, with the number of its chain and its p(class).

    With `best_first` they are in falling order of p(class), unknown ones last.
    """
    unit, prob = UNITS[kind_of(dict(record))], draws.class_prob[-1]
    order = best_first_order(prob) if best_first else np.arange(len(prob))
    captions = [f"{unit} {k}, p {prob[k]:.2f}" for k in order]
    legend = f"{legend_of(record)}{'; best first' if best_first else ''}"
    return make_grid(images[order], captions, title=f"{title_of(record)}\n{legend}")


def write_run(
    folder: Path,
    record: dict[str, Any],
    draws: Draws,
    stored: np.ndarray,
    film: Image.Image,
    photographs: np.ndarray | None = None,
) -> None:
    """Write report.html, grid.png, plots.png, film.png, samples.npz, run.json and files of sounds or clips; see `page_of`."""
    medium = medium_in(record, stored)
    images = medium.pictures(stored)
    save_png(folder / "grid.png", grid_of(record, draws, images))
    num_results, num_chains = draws.class_prob.shape
    title = f"{title_of(record)}: {sizes_text(record, num_results, num_chains)}"
    found = {name: Convergence(**values) for name, values in record["statistics"].items()}
    plots = plot_chains(draws, title, found, record["worst_coordinate"])
    save_png(folder / "plots.png", plots)
    save_png(folder / FILM, film)
    write_text(folder / REPORT, render(page_of(record, draws, stored, film, plots, photographs)))
    arrays: dict[str, Any] = {medium.kind: stored, **draws._asdict()}
    if photographs is not None:
        arrays[PHOTOGRAPH] = photographs
    np.savez_compressed(folder / SAMPLES_FILE, **arrays)
    if medium.is_small:
        write_each(folder, record, stored)
    if medium.joined_name:
        write_bytes(folder / medium.joined_name, medium.joined(stored))
    write_text(folder / RUN_FILE, json_text(record, 2) + "\n")


def write_each(folder: Path, record: Mapping[str, Any], stored: np.ndarray) -> None:
    """Write what is `stored` of each chain, [num_chains, ...], as a file of its own into `folder`: PNG, WAV or GIF."""
    medium = medium_in(record, stored)
    for k, one in enumerate(stored):
        write_bytes(folder / medium.file_name(k, len(stored)), medium.file(one))


def chain_attributes(record: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of chains.nc. The first ones have the names of ArviZ's schema."""
    return {
        "inference_library": "tfgradgen",
        "inference_library_version": str(record["versions"].get("tfgradgen", "")),
        "sampling_time": record["seconds"],  # includes burn-in
        "tuning_steps": record["arguments"]["schedule"]["num_adaptation_steps"],
        "label": record["label"]["name"],
        "kernel": record["kernel"],
        "kind": kind_of(record),
        "seed": record["seed"],
        "generator_sha256": str(record["generator"].get("sha256", "")),
        "classifier_sha256": str(record["classifier"].get("sha256", "")),
        "arguments": json_text(record["arguments"]),
    }


def write_chains(folder: Path, record: dict[str, Any], draws: Draws) -> None:
    """Write chains.nc into `folder`, with attributes from run.json."""
    attributes = chain_attributes(record)
    write_netcdf(folder / NETCDF, draws, attributes, is_chain=attributes["kind"] == "chain")
