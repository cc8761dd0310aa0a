"""The images of a comparison side by side: one row per method, one column per label."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from tfgradgen.evaluation.scored_images import ScoredImages
from tfgradgen.io.images import TILE_SIZE, make_grid

SIDE = 2  # chains across and down in one tile
MISSING = 225  # grey level of a cell that failed


def plot_grids(scored: Mapping[str, Mapping[str, ScoredImages]], labels: Sequence[str]) -> Image.Image:
    """Plot one tile per row and label, with the images of the first four chains, or four photographs."""
    height, width = next(p.image for row in scored.values() for p in row.values()).shape[1:3]
    shape = (height, width, max(p.image.shape[3] for row in scored.values() for p in row.values()))
    none = np.zeros((0, *shape), np.uint8)
    tiles = [
        mosaic(row[k].image if k in row else none, shape)  # of grey images too, in the colours of photographs
        for row in scored.values()
        for k in labels
    ]
    return make_grid(
        np.stack(tiles), num_columns=len(labels), headings=labels, row_names=list(scored), tile_size=SIDE * TILE_SIZE
    )


def mosaic(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Join the first SIDE x SIDE of `image` [N, *shape] to one image; missing ones are grey."""
    height, width, channels = shape
    cells = np.full((SIDE * SIDE, height, width, channels), MISSING, np.uint8)
    shown = image[: SIDE * SIDE]
    cells[: len(shown)] = shown
    joined: np.ndarray = (
        cells.reshape(SIDE, SIDE, height, width, channels)
        .transpose(0, 2, 1, 3, 4)
        .reshape(SIDE * height, SIDE * width, channels)
    )
    return joined
