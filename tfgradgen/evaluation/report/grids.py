"""The pictures of a comparison side by side: a row a method, a column a label."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from tfgradgen.evaluation.pictures import Pictures
from tfgradgen.io.images import make_grid

SIDE = 2  # chains across and down in one tile
MISSING = 225  # grey, of a cell that failed


def plot_grids(pictures: Mapping[str, Mapping[str, Pictures]], labels: Sequence[str]) -> Image.Image:
    """One tile for each row and label: the pictures of its first four chains."""
    first = next(p.image for row in pictures.values() for p in row.values())
    tiles = [
        mosaic(row[k].image, first.shape[1:]) if k in row else mosaic(first[:0], first.shape[1:])
        for row in pictures.values()
        for k in labels
    ]
    return make_grid(np.stack(tiles), num_columns=len(labels), headings=labels, row_names=list(pictures))


def mosaic(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The first SIDE x SIDE of `image` [N, *shape] as one picture, grey where there are fewer."""
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
