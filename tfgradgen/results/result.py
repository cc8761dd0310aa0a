"""The result of `tg.sample` and `tg.load_run`. Does not import TensorFlow."""

import functools
import html
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tfgradgen.core.checks import check_choice
from tfgradgen.core.contracts import Draws
from tfgradgen.core.files import finite, path_of
from tfgradgen.core.text import as_python, value_text
from tfgradgen.diagnostics.advice import priced
from tfgradgen.diagnostics.netcdf import as_datatree
from tfgradgen.io.folders import atomic_dir, check_partial, check_target
from tfgradgen.io.images import read_image
from tfgradgen.media.image import as_png
from tfgradgen.media.medium import Medium
from tfgradgen.media.registry import medium_in
from tfgradgen.results.files import (
    FILM,
    chain_attributes,
    checked_summary,
    grid_of,
    read_nearest,
    read_run,
    write_each,
    write_run,
)
from tfgradgen.results.record import diagnosis, of_draws
from tfgradgen.results.summary import summary
from tfgradgen.viewing.html import embedded

MOST_PLAYED = 64  # chains that a notebook plays


class SampleResult:
    """The draws, images and diagnosis of a run of C chains with N draws each.

    Images and diagnosis are computed on first use and cached. Results can be pickled.

    Attributes:
      z: float32 [N, C, latent_dim], the kept latent points; z[-1] are the last states of the chains.
      class_prob: float32 [N, C], p(class | image of z), in [0, 1].
      target_log_prob: float32 [N, C], the unnormalized log density, in nats.
      draws: These three, and is_accepted, step_size and log_accept_ratio of each draw (see `Draws`).
      images: uint8 [C, height, width, channels], the image of each chain's last draw; of sounds and clips a still of each.
      media: What is stored of each chain's last draw: `images`; sounds int16 [C, samples]; or clips uint8 [C, frames, height,
        width, channels].
      medium: Which of these it is, with shape and rate (see `media.medium.Medium`).
      issues: Problems of the run, one line each: what to do, what that costs, and the section of
        tfgradgen/diagnostics/README.md to read; [] if none was found.
      grades: 'ok' or 'warning', of 'images': whether they are draws of the posterior; and of 'means': whether they are good to
        the errors shown.
      statistics: mean, standard_error, ess, ess_bulk, ess_tail, rhat and between (see `Convergence`), by name of the quantity:
        p(class), the target density and the coordinate of z that mixed worst (the record's worst_coordinate).
      record: The content of run.json: arguments, versions, sha256 of the models, cost in evaluations and seconds, diagnosis.
      folder: The folder that it was read from or saved in last; None if there is none.
      photographs: uint8 [C, height, width, 3], the photograph nearest to each image; None if none was sought (see
        `tg.nearest_photographs`).
    """

    def __init__(
        self,
        planned: dict[str, Any],
        draws: Draws,
        finish_fn: Callable[[], tuple[dict[str, Any], np.ndarray]],
        film_fn: Callable[[], Image.Image],
        folder: Path | None = None,
        photographs: np.ndarray | None = None,
    ):
        """Create a result, as `sample` and `load_run` do.

        Args:
          planned: The part of the record that is known before the run.
          draws: The kept draws.
          finish_fn: () -> record and what is stored of each chain's last draw.
          film_fn: () -> film.png.
          folder: The folder of the run, if there is one.
          photographs: As the attribute.
        """
        self.draws, self.folder, self.photographs = draws, folder, photographs
        self._planned, self._finish_fn, self._film_fn = planned, finish_fn, film_fn

    @property
    def z(self) -> np.ndarray:
        return self.draws.z

    @property
    def class_prob(self) -> np.ndarray:
        return self.draws.class_prob

    @property
    def target_log_prob(self) -> np.ndarray:
        return self.draws.target_log_prob

    @functools.cached_property
    def _finished(self) -> tuple[dict[str, Any], np.ndarray]:
        return self._finish_fn()

    @property
    def record(self) -> dict[str, Any]:
        return self._finished[0]

    @property
    def media(self) -> np.ndarray:
        return self._finished[1]

    @property
    def medium(self) -> Medium:
        return medium_in(self.record, self.media)

    @functools.cached_property
    def images(self) -> np.ndarray:
        return self.medium.pictures(self.media)

    @property
    def issues(self) -> list[str]:
        return [as_python(priced(problem, self.record["seconds"])) for problem in self.record["problems"]]

    @property
    def grades(self) -> dict[str, str]:
        return dict(self.record["grades"])

    @property
    def statistics(self) -> dict[str, dict[str, Any]]:
        statistics: dict[str, dict[str, Any]] = self.record["statistics"]
        return statistics

    def noted(self, entries: dict[str, Any], photographs: np.ndarray | None = None) -> "SampleResult":
        """Return this result with other `entries` in its record, JSON-serializable, and graded with them."""
        own = self.photographs if photographs is None else photographs

        def finish() -> tuple[dict[str, Any], np.ndarray]:
            record = {**self.record, **entries}
            return {**record, **finite(diagnosis(self.draws, record))}, self.media

        return SampleResult({**self._planned, **entries}, self.draws, finish, self._film_fn, photographs=own)

    def summary(self) -> str:
        """Return the lines that the `sample` command prints: the run, its results, mixing, `grades` and `issues`."""
        return as_python(summary(self.record))

    def grid(self, best_first: bool = False) -> Image.Image:
        """Return the images in a square, each with the number of its chain and its p(class) below: grid.png.

        They are in the order of the chains, or with `best_first` in falling order of p(class).
        """
        return grid_of(self.record, self.draws, self.images, check_choice("best_first", best_first, (True, False)))

    def to_datatree(self) -> Any:
        """Return the draws as an `xarray.DataTree` in ArviZ's schema, with the names and attributes of chains.nc.

        The group posterior has z and class_prob; the group sample_stats has lp, acceptance_rate, diverging and others.

        Raises:
          UserError: xarray is not installed.
        """
        attributes = chain_attributes(self.record)
        return as_datatree(self.draws, attributes, is_chain=attributes["kind"] == "chain")

    def save(self, folder: str | os.PathLike[str], overwrite: bool = False, save_images: bool = False) -> Path:
        """Write report.html, grid.png, plots.png, film.png, samples.npz and run.json, as the `sample` command does.

        `load_run` reads them. After an error nothing is left behind.

        Args:
          folder: A new or empty folder.
          overwrite: Whether to replace an earlier run in it. A folder that holds anything else is never changed.
          save_images: Whether to write the image of each chain as a PNG file of its own, too: image-00.png and so on. Sounds
            and clips always have files of their own.

        Returns:
          The folder.

        Raises:
          UserError: The folder cannot be written or may not be replaced, or an argument has the wrong type.
        """
        name = "folder"
        target = path_of(name, folder)
        check_choice("overwrite", overwrite, (True, False))
        check_choice("save_images", save_images, (True, False))
        check_partial(target, welcome=False, name=name)
        check_target(target, overwrite, name)
        with atomic_dir(target, overwrite, name=name) as beside:
            self.write_into(beside)
            if save_images:
                write_each(beside, self.record, self.media)
        self.folder = target
        return target

    def write_into(self, folder: Path) -> None:
        """Write the files of `save` into an existing folder."""
        write_run(folder, self.record, self.draws, self.media, self._film_fn(), self.photographs)

    def __reduce__(self) -> tuple[Any, ...]:
        """Compute images and diagnosis now: a copy has neither the models nor the folder."""
        return _whole, (self._planned, self.draws, self._finished, self._film_fn(), self.photographs)

    def __repr__(self) -> str:
        num_results, num_chains, latent_dim = self.z.shape
        label = value_text(self._planned["label"]["name"])
        sizes = f"num_results={num_results}, num_chains={num_chains}, latent_dim={latent_dim}"
        return f"SampleResult(label={label}, kernel={self._planned['kernel']!r}, {sizes})"

    def _repr_html_(self) -> str:
        """Show the images with the summary below them, in a notebook; of sounds and clips also players."""
        grid = f'<img alt="the last draw of each chain" src="{embedded("image/png", as_png(self.grid()))}">'
        return f"{grid}{self._players()}<pre>{html.escape(self.summary())}</pre>"

    def _players(self) -> str:
        medium = self.medium
        if not medium.joined_name:
            return ""
        source = embedded(medium.mime, medium.joined(self.media[:MOST_PLAYED]))
        if medium.is_audible:
            return f'<br><audio controls title="the last draws, one after another" src="{source}"></audio>'
        return f'<br><img alt="the last draws, moving" src="{source}">'


def _whole(
    planned: dict[str, Any],
    draws: Draws,
    finished: tuple[dict[str, Any], np.ndarray],
    film: Image.Image,
    photographs: np.ndarray | None,
) -> SampleResult:
    return SampleResult(planned, draws, lambda: finished, lambda: film, photographs=photographs)


def load_run(folder: str | os.PathLike[str]) -> SampleResult:
    """Read a folder that the `sample` command or `SampleResult.save` wrote.

    The diagnosis is computed again from the draws. Neither TensorFlow nor the models are needed.

    Raises:
      UserError: A file is missing, damaged, or not part of a run.
    """
    remedy = "give a folder that `sample` or SampleResult.save wrote"
    where = path_of("folder", folder)
    record, draws, stored = read_run(where, "load_run", remedy)
    checked_summary(record, draws, "load_run", remedy)
    record = {**record, **of_draws(draws), **diagnosis(draws, record)}
    photographs = read_nearest(where, record, stored)
    return SampleResult(record, draws, lambda: (record, stored), lambda: read_image(where / FILM), where, photographs)
