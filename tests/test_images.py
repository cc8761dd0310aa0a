"""Pictures: the mapping to bytes and the layout of grids, read back from the PNG."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfgradgen.images import CAPTION_HEIGHT, GAP, make_grid, save_png, to_uint8


def test_range_rounding_and_clipping() -> None:
    np.testing.assert_array_equal(to_uint8([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0]), [0, 0, 128, 255, 255, 255])


@pytest.mark.parametrize("channels", [1, 3])
def test_each_tile_lies_where_it_belongs(tmp_path: Path, channels: int) -> None:
    images = np.zeros((5, 8, 8, channels), np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None, None] * 40
    save_png(tmp_path / "grid.png", make_grid(images, [f"p {k}" for k in range(5)], num_columns=2, tile_size=16))
    with Image.open(tmp_path / "grid.png") as picture:
        grid = np.asarray(picture)
    cell_width, cell_height = 16 + GAP, 16 + GAP + CAPTION_HEIGHT
    assert grid.shape == (3 * cell_height + GAP, 2 * cell_width + GAP, 3)
    for k in range(5):
        y, x = GAP + k // 2 * cell_height, GAP + k % 2 * cell_width
        assert (grid[y : y + 16, x : x + 16] == 40 * k).all()
        caption = grid[y + 16 : y + cell_height - GAP, x : x + cell_width]
        assert (caption < 128).any(), "a caption is written below each tile"
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


def test_a_grid_is_square_by_default_and_can_have_a_title() -> None:
    images = np.zeros((16, 64, 64, 3), np.uint8)
    plain, titled = make_grid(images), make_grid(images, title="goldfish")
    assert plain.size == (4 * (128 + GAP) + GAP, 4 * (128 + GAP) + GAP)
    assert titled.height == plain.height + CAPTION_HEIGHT


def test_headings_stand_above_their_columns_and_below_the_title() -> None:
    images = np.zeros((4, 8, 8, 3), np.uint8)
    plain = make_grid(images, num_columns=2, tile_size=64)
    headed = make_grid(images, num_columns=2, tile_size=64, headings=["draw 0", "draw 9"])
    both = make_grid(images, num_columns=2, tile_size=64, title="title", headings=["draw 0", "draw 9"])
    assert (headed.height, both.height) == (plain.height + CAPTION_HEIGHT, plain.height + 2 * CAPTION_HEIGHT)
    top = np.asarray(headed)[: GAP + CAPTION_HEIGHT]
    for column in range(2):
        x = GAP + column * (64 + GAP)
        assert (top[:, x : x + 64] < 128).any()
    np.testing.assert_array_equal(np.asarray(both)[CAPTION_HEIGHT + GAP // 2 + 2 :], np.asarray(headed)[GAP // 2 + 2 :])
    assert (np.asarray(both)[:CAPTION_HEIGHT] < 128).any()


def test_row_names_stand_at_the_left_of_their_rows_and_long_headings_are_cut() -> None:
    images = np.full((4, 8, 8, 3), 255, np.uint8)
    headings = ["a heading wider than its column", "b"]
    grid = np.asarray(make_grid(images, num_columns=2, tile_size=64, headings=headings, row_names=["hmc", "mala+reg"]))
    left, top = grid.shape[1] - 2 * (64 + GAP), GAP + CAPTION_HEIGHT
    assert left > 40
    for row in range(2):
        y = top + row * (64 + GAP)
        assert (grid[y : y + 64, :left] < 128).any()
    assert not (grid[top:, left:] < 128).any(), "no name reaches into the tiles"
    assert (grid[:top, left : left + 64] < 128).any()
    assert not (grid[:top, left + 64 : left + 64 + GAP] < 128).any(), "nor a heading into the next"
