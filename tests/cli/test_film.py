"""film.png: which draws it shows, and at which places."""

import functools

import numpy as np
import pytest
from PIL import Image

from tests.support import toy
from tfgradgen.core.contracts import Draws
from tfgradgen.io.images import CAPTION_HEIGHT, GAP, decode
from tfgradgen.media.image import to_uint8
from tfgradgen.results.film import make_film

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


def test_a_tile_of_a_chain_that_has_not_moved_is_faded_and_marked() -> None:
    """Chain 1 stands still from draw 1 to draw 3. Chain 0 returns to an earlier point, which counts as a move."""
    z = np.random.default_rng(1).uniform(-1, 1, (4, 2, 6)).astype(np.float32)
    z[1:, 1], z[2, 0] = z[1, 1], z[1, 0]
    moved = np.ones((4, 2), bool)
    moved[2:, 1] = False
    prob = np.full((4, 2), 0.5, np.float32)
    flat = lambda z: np.full((len(z), TILE, TILE, 3), 90, np.uint8)  # noqa: E731
    film = np.asarray(make_film(flat, Draws(z, prob, prob, moved, prob, prob)))
    width, height, top = TILE + GAP, TILE + GAP + CAPTION_HEIGHT, GAP + CAPTION_HEIGHT
    corners = [[film[top + chain * height, GAP + draw * width, 0] for draw in range(4)] for chain in (0, 1)]
    assert corners[0] == [90] * 4
    assert corners[1][:2] == [90, 90]
    assert corners[1][2] == corners[1][3] == 255 - 165 // 3
    below = [(film[top + height + TILE : top + 2 * height - GAP, GAP + k * width :][:, :TILE] < 128).sum() for k in (1, 2)]
    assert below[1] > 1.5 * below[0], "the caption says so"
