"""film.png: the images of chains along a run, one row per chain."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image

from tfgradgen.core.contracts import Draws
from tfgradgen.io.images import CAPTION_HEIGHT, Cells, cells_of, make_grid

FILM_CHAINS, FILM_DRAWS = 16, 8  # rows and columns of film.png, at most
MAX_LINES = 20  # above the images: title and headings
FADED = 3  # by which the distance of a repeated tile from white is divided


class Shots(NamedTuple):
    """What film.png shows.

    Attributes:
      draws: The number of the draw of each column.
      class_prob: [rows, columns], p(class) of each tile.
      is_still: [rows, columns], whether the chain has not moved since the column before.
      z: [rows, columns, latent_dim], the latent points.
    """

    draws: list[int]
    class_prob: np.ndarray
    is_still: np.ndarray
    z: np.ndarray


def shots_of(draws: Draws) -> Shots:
    """Return what film.png shows of `draws`: the first chains, at draws that are evenly spaced from the first to the last."""
    num_results = len(draws.z)
    shown = np.rint(np.linspace(0, num_results - 1, min(FILM_DRAWS, num_results))).astype(int)
    z, prob = (np.swapaxes(column[shown, :FILM_CHAINS], 0, 1) for column in (draws.z, draws.class_prob))
    is_still = np.zeros(prob.shape, bool)
    is_still[:, 1:] = (z[:, 1:] == z[:, :-1]).all(-1) & ~_moved_between(draws.is_accepted[:, :FILM_CHAINS], shown)
    return Shots(shown.tolist(), prob, is_still, z)


def make_film(decode_fn: Callable[[np.ndarray], np.ndarray], draws: Draws, title: str = "") -> Image.Image:
    """Return the images of the first chains along the run: one row per chain, one column per kept draw.

    A tile is faded, and its caption says so, if its chain has not moved since the column before.

    Args:
      decode_fn: z [B, latent_dim] -> uint8 images.
      draws: The kept draws; those shown are evenly spaced from the first to the last.
      title: Written above the images.
    """
    shots = shots_of(draws)
    captions = [
        f"{f'chain {c}, ' if k == 0 else ''}p {p:.2f}{', not moved' if shots.is_still[c, k] else ''}"
        for c, row in enumerate(shots.class_prob)
        for k, p in enumerate(row)
    ]
    images = decode_fn(shots.z.reshape(-1, shots.z.shape[-1]))
    is_still = shots.is_still.reshape(-1)
    images[is_still] = 255 - (255 - images[is_still]) // FADED
    return make_grid(
        images,
        captions,
        num_columns=len(shots.draws),
        title="\n".join(line for line in (title, _title(draws.z.shape[1])) if line),
        headings=[f"draw {k}" for k in shots.draws],
    )


def film_cells(film: Image.Image, draws: Draws, height: int, width: int) -> Cells | None:
    """Return where the images of `height` x `width` are in a film of `draws`; None if `film` has another size.

    Films of earlier versions have fewer lines above the images, so the number of lines is taken from the height.
    """
    num_columns = min(FILM_DRAWS, len(draws.z))
    num_rows = min(FILM_CHAINS, draws.z.shape[1])
    num_lines, rest = divmod(film.height - cells_of(height, width).grid_size(num_rows, num_columns)[1], CAPTION_HEIGHT)
    if rest or not 1 <= num_lines <= MAX_LINES:
        return None
    cells = cells_of(height, width, num_lines=num_lines)
    return cells if film.size == cells.grid_size(num_rows, num_columns) else None


def _title(num_chains: int) -> str:
    return f"the first {FILM_CHAINS} of {num_chains} chains, one per row" if num_chains > FILM_CHAINS else ""


def _moved_between(is_accepted: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Return whether each chain moved between each `shown` draw and the next, [num_chains, len(shown) - 1]."""
    moved = np.zeros((is_accepted.shape[1], len(shown) - 1), bool)
    for k, (before, after) in enumerate(pairwise(shown)):
        moved[:, k] = is_accepted[before + 1 : after + 1].any(0)
    return moved
