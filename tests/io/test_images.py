"""Images: the mapping to bytes and the layout of grids, read back from the PNG."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tfgradgen.core.checks import UserError
from tfgradgen.evaluation.scored_images import observe_photographs
from tfgradgen.io.images import CAPTION_HEIGHT, GAP, make_grid, read_image, read_images, save_png
from tfgradgen.media.image import to_uint8


def test_range_rounding_and_clipping() -> None:
    np.testing.assert_array_equal(to_uint8([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0]), [0, 0, 128, 255, 255, 255])


@pytest.mark.parametrize("channels", [1, 3])
def test_each_tile_is_in_its_place(tmp_path: Path, channels: int) -> None:
    images = np.zeros((5, 8, 8, channels), np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None, None] * 40
    save_png(tmp_path / "grid.png", make_grid(images, [f"p {k}" for k in range(5)], num_columns=2, tile_size=16))
    with Image.open(tmp_path / "grid.png") as image:
        grid = np.asarray(image)
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


def pixels(path: Path, image: Image.Image, **settings: Any) -> np.ndarray:
    """Return what is read of `image` after saving."""
    image.save(path, **settings)
    return np.asarray(read_image(path))


GRADIENT = np.linspace(0, 255, 32 * 24).reshape(24, 32)
RGB = np.stack([GRADIENT, GRADIENT[::-1], 255 - GRADIENT], -1).astype(np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_a_photograph_is_read_upright(orientation: int, ending: str, tmp_path: Path) -> None:
    """Each of EXIF's orientations is undone; the image was saved with the opposite rotation."""
    turned = {
        **{1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1]},
        **{5: RGB.transpose(1, 0, 2), 6: np.rot90(RGB, 1), 7: RGB[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(RGB, -1)},
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    settings = {"quality": 95, "subsampling": 0} if ending == "jpg" else {}
    found = pixels(tmp_path / f"a.{ending}", Image.fromarray(np.ascontiguousarray(turned)), exif=exif, **settings)
    assert found.shape == RGB.shape
    assert np.abs(found.astype(int) - RGB).mean() < 2


def test_sixteen_bits_are_brought_to_eight(tmp_path: Path) -> None:
    wide = np.rint(GRADIENT * 257).astype(np.uint16)
    for name in ("a.png", "a.tif"):
        found = pixels(tmp_path / name, Image.fromarray(wide))
        np.testing.assert_allclose(found, np.repeat(GRADIENT[..., None], 3, 2), atol=1)
    for dtype, scale in ((np.int32, 257), (np.float32, 1 / 255)):
        found = pixels(tmp_path / "b.tif", Image.fromarray((GRADIENT * scale).astype(dtype)))
        np.testing.assert_allclose(found[..., 0], GRADIENT, atol=2)


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    alpha = np.concatenate([RGB, np.zeros((24, 32, 1), np.uint8)], -1)
    alpha[:, 16:, 3] = 255
    for name, image in {"a.png": Image.fromarray(alpha), "b.webp": Image.fromarray(alpha)}.items():
        found = pixels(tmp_path / name, image, **({"lossless": True} if name.endswith("webp") else {}))
        assert (found[:, :16] == 255).all()
        np.testing.assert_array_equal(found[:, 16:], RGB[:, 16:])
    grey = Image.fromarray(alpha[..., [0, 3]].copy(), "LA")
    assert (pixels(tmp_path / "c.png", grey)[:, :16] == 255).all()
    palette = Image.fromarray(np.uint8([[0, 1], [1, 0]]), "P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    for name in ("d.png", "d.gif"):
        found = pixels(tmp_path / name, palette, transparency=0)
        assert found.tolist() == [[[255] * 3, [200, 100, 50]], [[200, 100, 50], [255] * 3]]


def test_other_modes_are_read_in_colour(tmp_path: Path) -> None:
    image = Image.fromarray(RGB)
    close = lambda a, b: np.abs(a.astype(int) - b).mean() < 4  # noqa: E731
    assert close(pixels(tmp_path / "a.jpg", image.convert("CMYK"), quality=95), RGB)
    assert close(pixels(tmp_path / "b.jpg", image.convert("L"), quality=95), np.asarray(image.convert("L"))[..., None])
    ones = np.asarray(image.convert("1"))
    np.testing.assert_array_equal(pixels(tmp_path / "c.png", image.convert("1")), np.repeat(255 * ones[..., None], 3, 2))
    frames = [Image.fromarray(np.full((4, 4, 3), level, np.uint8)) for level in (10, 200)]
    for name in ("d.gif", "d.png", "d.tif"):
        assert (pixels(tmp_path / name, frames[0], save_all=True, append_images=frames[1:]) == 10).all()


def test_damaged_metadata_spoils_no_image(tmp_path: Path) -> None:
    found = pixels(tmp_path / "a.png", Image.fromarray(RGB), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 50)
    np.testing.assert_array_equal(found, RGB)


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"P6 90000 90000 255\n", b"P6 9000 9000 255\n"],
)
def test_a_file_that_is_not_an_image_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png: expected an image that can be read, got .+; give another"):
        read_images([path], 8, 8)


def test_a_damaged_photograph_of_many_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "alp"
    folder.mkdir()
    for k in range(12):
        Image.fromarray(RGB).save(folder / f"{k}.png")
    whole = (folder / "7.png").read_bytes()
    (folder / "7.png").write_bytes(whole[: len(whole) // 2])
    observer: Any = None
    with pytest.raises(UserError, match=r"image .+7\.png: expected an image that can be read"):
        observe_photographs(tmp_path, ["alp"], observer, (8, 8, 3))
    for label in ("..", "a/b", ""):
        with pytest.raises(UserError, match="name that can be a folder name"):
            observe_photographs(tmp_path / "alp", [label], observer, (8, 8, 3))
