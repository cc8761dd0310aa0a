"""film.png: which draws it shows, and where."""

import functools

import numpy as np
import pytest
from PIL import Image

from tests.support import toy
from tfgradgen.core.contracts import Draws
from tfgradgen.io.images import CAPTION_HEIGHT, GAP, decode, to_uint8
from tfgradgen.results.files import make_film

TILE = 128


@pytest.mark.parametrize(
    ("num_results", "num_chains", "shown"),
    [(1, 2, [0]), (3, 1, [0, 1, 2]), (8, 16, list(range(8))), (71, 18, list(range(0, 71, 10)))],
)
def test_each_tile_is_its_draw_decoded(num_results: int, num_chains: int, shown: list[int]) -> None:
    generator = toy.ToyGenerator()
    z = np.random.default_rng(0).uniform(-1, 1, (num_results, num_chains, 6)).astype(np.float32)
    other = np.zeros((num_results, num_chains), np.float32)
    film = np.asarray(make_film(functools.partial(decode, generator), Draws(z, other, other, other > 0, other, other)))
    rows, top = min(num_chains, 16), GAP + CAPTION_HEIGHT * (2 if num_chains > 16 else 1)
    width, height = TILE + GAP, TILE + GAP + CAPTION_HEIGHT
    assert film.shape == (rows * height + top, len(shown) * width + GAP, 3)
    for chain in range(rows):
        for column, draw in enumerate(shown):
            (tile,) = to_uint8(generator(z[draw, chain][None]))
            expected = Image.fromarray(tile[..., 0]).convert("RGB").resize((TILE, TILE), Image.Resampling.BICUBIC)
            y, x = top + chain * height, GAP + column * width
            np.testing.assert_array_equal(film[y : y + TILE, x : x + TILE], np.asarray(expected))
            assert (film[y + TILE : y + height - GAP, x : x + TILE] < 128).any(), "its p(class) is written below"
    for column in range(len(shown)):
        x = GAP + column * width
        assert (film[top - CAPTION_HEIGHT : top - 2, x : x + TILE] < 128).any(), "each column names its draw"
