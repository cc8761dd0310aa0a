"""Export of a run to ArviZ's InferenceData schema: a NetCDF file for ArviZ or xarray, or a DataTree."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from tfgradgen.core.checks import fail
from tfgradgen.core.contracts import Draws, accept_prob
from tfgradgen.core.text import printable
from tfgradgen.diagnostics.convergence import BLOCK_DRAWS
from tfgradgen.diagnostics.issues import diverged

DIMENSIONS = ("chain", "draw", "latent")


def check_netcdf() -> None:
    """Raise `UserError` if the packages that write the file are not installed."""
    try:
        import h5netcdf  # noqa: F401
        import h5py  # noqa: F401  # h5netcdf may import it only when it opens a file
    except ImportError as error:
        remedy = "pip install 'tfgradgen[netcdf]', or leave --netcdf out"
        raise fail("netcdf", "h5netcdf to write chains.nc", f"none ({error})", remedy) from error


def write_netcdf(path: Path, draws: Draws, attributes: Mapping[str, str | int | float], is_chain: bool) -> None:
    """Write `draws` with dimensions [chain, draw, ...], one block of draws at a time: they may be larger than memory.

    Group posterior has z and class_prob. Group sample_stats has, with the schema's names, lp (the target density in nats) and
    step_size (if there is one). If `is_chain`, it also has acceptance_rate (the acceptance probability of the proposal before a
    draw, in 0..1), diverging (an energy error as in `issues.diverged`), and two variables outside the schema, is_accepted and
    log_accept_ratio.

    Args:
      path: The file to write.
      draws: The draws of the run.
      attributes: Attributes of every group, in addition to the time of writing.
      is_chain: Whether the draws are those of a Markov chain.
    """
    import h5netcdf

    num_results, num_chains, latent_dim = draws.z.shape
    sizes = {"chain": num_chains, "draw": num_results, "latent": latent_dim}
    stamp, with_step_size = stamped(attributes), has_step_size(draws)
    with _writing(), h5netcdf.File(path, "w") as file:
        file.attrs.update(stamp)
        for name, dimensions in (("posterior", DIMENSIONS), ("sample_stats", DIMENSIONS[:2])):
            group = file.create_group(name)
            group.attrs.update(stamp)
            for dimension in dimensions:
                group.dimensions[dimension] = sizes[dimension]
                group.create_variable(dimension, (dimension,), data=np.arange(sizes[dimension]))
        for first in range(0, num_results, BLOCK_DRAWS):
            block = Draws(*(np.asarray(column[first : first + BLOCK_DRAWS]) for column in draws))
            for name, values in _variables(block, is_chain, with_step_size):
                _append(file, name, values, first)


def stamped(attributes: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    """Return `attributes` with the current time, as in the schema."""
    return {"created_at": datetime.now(timezone.utc).isoformat(), **attributes}


def has_step_size(draws: Draws) -> bool:
    """Return whether the sampler has a step size."""
    return bool(np.isfinite(draws.step_size[-1]).any())


@contextmanager
def _writing() -> Iterator[None]:
    """Replace the RuntimeError of h5py, which it raises for a full disk, by OSError."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(errno.EIO, printable(str(error), 150)) from error


def _variables(draws: Draws, is_chain: bool, with_step_size: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the path in the file and the values [draw, chain, ...] of each variable of a block of draws."""
    yield "posterior/z", draws.z
    yield "posterior/class_prob", draws.class_prob
    yield "sample_stats/lp", draws.target_log_prob
    if is_chain:
        ratio = draws.log_accept_ratio
        yield "sample_stats/acceptance_rate", accept_prob(draws)
        yield "sample_stats/diverging", diverged(ratio)
        yield "sample_stats/is_accepted", draws.is_accepted
        yield "sample_stats/log_accept_ratio", ratio
    if with_step_size:
        yield "sample_stats/step_size", draws.step_size


def _append(file: Any, name: str, values: np.ndarray, first: int) -> None:
    if name not in file:
        dimensions = DIMENSIONS[: values.ndim]
        is_bool = values.dtype == bool
        variable = file.create_variable(name, dimensions, "i1" if is_bool else values.dtype)
        if is_bool:  # NetCDF has no bool; this is xarray's mark
            variable.attrs["dtype"] = "bool"
    file[name][:, first : first + len(values)] = np.swapaxes(values, 0, 1)


def as_datatree(draws: Draws, attributes: Mapping[str, str | int | float], is_chain: bool) -> Any:
    """Return what `write_netcdf` writes as an `xarray.DataTree` in memory.

    Raises:
      UserError: xarray is not installed or too old.
    """
    try:
        from xarray import Dataset, DataTree
    except ImportError as error:
        raise fail("to_datatree", "xarray, 2024.11 or later", f"none ({error})", "pip install 'tfgradgen[netcdf]'") from error
    stamp = stamped(attributes)
    groups: dict[str, dict[str, Any]] = {"posterior": {}, "sample_stats": {}}
    for path, values in _variables(draws, is_chain, has_step_size(draws)):
        group, name = path.split("/")
        groups[group][name] = (DIMENSIONS[: values.ndim], np.swapaxes(values, 0, 1))
    sizes = dict(zip(DIMENSIONS, (draws.z.shape[1], draws.z.shape[0], draws.z.shape[2]), strict=True))
    found = {"/": Dataset(attrs=stamp)}
    for group, variables in groups.items():
        used = {name for dimensions, _ in variables.values() for name in dimensions}
        found[group] = Dataset(variables, {name: np.arange(sizes[name]) for name in DIMENSIONS if name in used}, stamp)
    return DataTree.from_dict(found)
