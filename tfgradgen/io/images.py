"""Reading images, decoding latent points, and grids of images with captions."""

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from tfgradgen.core.contracts import GeneratorLike
from tfgradgen.core.files import atomic_file
from tfgradgen.core.parsing import PARSER_ERRORS, parsing, read_bytes
from tfgradgen.core.text import as_text
from tfgradgen.media.image import as_png
from tfgradgen.media.registry import decoded

CAPTION_HEIGHT = 16  # pixels below each tile
GAP = 4  # pixels
TILE_SIZE = 128  # pixels
FORMATS = ("JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP", "PPM")  # none of their decoders starts another program
MAX_PIXELS, MAX_FILE = 80_000_000, 1 << 28  # pixels of an image, bytes of its file
BACKGROUND, INK = (255, 255, 255), (40, 40, 40)


def decode(generator: GeneratorLike, z: np.ndarray, batch_size: int | None = None) -> np.ndarray:
    """Return stills uint8 [B, height, width, channels] of what `generator` gives for `z` [B, latent_dim]."""
    medium, stored = decoded(generator, z, batch_size)
    return medium.pictures(stored)


def read_images(paths: Sequence[Path], width: int, height: int) -> np.ndarray:
    """Return image files (see `read_image`) as uint8 RGB [N, height, width, 3], resized if needed."""
    return np.stack([resized(read_image(path), width, height) for path in paths])


def resized(image: Image.Image, width: int, height: int) -> np.ndarray:
    """Return an RGB image as uint8 [height, width, 3], resized if needed."""
    same = image.size == (width, height)
    return np.asarray(image if same else image.resize((width, height), Image.Resampling.LANCZOS))


def read_image(path: Path) -> Image.Image:
    """Return the image in a file; see `image_of`."""
    return image_of(lambda: read_bytes(path, MAX_FILE), path)


def image_digest(path: Path) -> str:
    """Return the SHA-256 of the bytes of an image file.

    Raises:
      UserError: It cannot be read, or is longer than `MAX_FILE`.
    """
    with parsing(f"image {as_text(path)}", "an image that can be read", "give another file"):
        return hashlib.sha256(read_bytes(path, MAX_FILE)).hexdigest()


def image_of(read_fn: Callable[[], bytes], name: Any) -> Image.Image:
    """Return the image in the content of a file in RGB, as a viewer shows it.

    The image is upright (EXIF), transparency is over white, 16 bits are scaled to 8, and only the first frame is read.

    Args:
      read_fn: Function that returns the content.
      name: Name of the file, for errors.

    Raises:
      UserError: The content cannot be read, its format is not in `FORMATS`, or it has more than `MAX_PIXELS` pixels.
    """
    kinds = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    with (
        parsing(f"image {as_text(name)}", "an image that can be read", "give another, or remove it", *kinds),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # about damaged metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.init()  # registers the formats
        data = io.BytesIO(read_fn())
        with _opened(data) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"one of {image.width} x {image.height} pixels")
            image.load()
            return _as_rgb(_upright(image))


def _opened(data: io.BytesIO) -> Image.Image:
    known = [name for name in FORMATS if name in Image.OPEN]
    try:
        return Image.open(data, formats=known)
    except UnidentifiedImageError as error:  # its own message shows the address of `data`
        raise ValueError(f"a file of another format than {', '.join(known)}") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except PARSER_ERRORS:  # damaged metadata: viewers show the pixels as stored
        return image


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # one channel of 16 or 32 bits, which `convert` would clip at 255
        values = np.nan_to_num(np.asarray(image, np.float64))
        tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
        top = next((top for top in tops if values.max() <= top), values.max())
        return Image.fromarray(np.rint(np.clip(values / top, 0, 1) * 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


class Cells(NamedTuple):
    """Where the tiles of a grid are, in pixels.

    Attributes:
      corner: Left and top of the first tile.
      pitch: Horizontal and vertical distance between two tiles.
      size: Width and height of a tile.
    """

    corner: tuple[int, int]
    pitch: tuple[int, int]
    size: tuple[int, int]

    def place(self, row: int, column: int) -> tuple[int, int]:
        """Return left and top of a tile."""
        return self.corner[0] + column * self.pitch[0], self.corner[1] + row * self.pitch[1]

    def grid_size(self, num_rows: int, num_columns: int) -> tuple[int, int]:
        """Return width and height of a grid of so many tiles."""
        return self.place(0, num_columns)[0], self.place(num_rows, 0)[1]


def cells_of(
    height: int, width: int, tile_size: int = TILE_SIZE, has_captions: bool = True, num_lines: int = 0, left: int = GAP
) -> Cells:
    """Return where `make_grid` puts images of `height` x `width`.

    Args:
      height: Height of an image, in pixels.
      width: Width of an image, in pixels.
      tile_size: As for `make_grid`.
      has_captions: Whether the tiles have captions.
      num_lines: Number of lines above the tiles: title and headings.
      left: Pixels at the left of the tiles.
    """
    scale = max(1, round(tile_size / height))
    size = width * scale, height * scale
    pitch = size[0] + GAP, size[1] + GAP + (CAPTION_HEIGHT if has_captions else 0)
    return Cells((left, GAP + CAPTION_HEIGHT * num_lines), pitch, size)


def make_grid(
    images: np.ndarray,
    captions: Sequence[str] = (),
    num_columns: int | None = None,
    tile_size: int = TILE_SIZE,
    title: str = "",
    headings: Sequence[str] = (),
    row_names: Sequence[str] = (),
) -> Image.Image:
    """Arrange images in a grid, row by row.

    Args:
      images: uint8 [N, height, width, 1 or 3].
      captions: One per tile, written below it.
      num_columns: By default that of the smallest square that holds all tiles.
      tile_size: Pixels; smaller images are enlarged by an integer factor to about this height.
      title: Written above the tiles; lines wider than the grid are wrapped at spaces.
      headings: One per column, written above its first tile and cut to its width.
      row_names: One per row, written at its left.
    """
    count, height, width, channels = images.shape
    columns = num_columns or int(np.ceil(np.sqrt(count)))
    font = ImageFont.load_default(size=CAPTION_HEIGHT - 4)
    left = GAP + max((int(font.getlength(name)) + 2 * GAP for name in row_names), default=0)
    total_width = cells_of(height, width, tile_size, left=left).grid_size(0, columns)[0]
    lines = wrapped(title, total_width - 2 * GAP, font.getlength)
    cells = cells_of(height, width, tile_size, bool(captions), len(lines) + bool(headings), left)
    top, tile_height = cells.corner[1], cells.size[1]
    grid = Image.new("RGB", cells.grid_size(-(-count // columns), columns), BACKGROUND)
    draw = ImageDraw.Draw(grid)
    for k, line in enumerate(lines):
        draw.text((GAP, GAP // 2 + k * CAPTION_HEIGHT), line, INK, font)
    for k, heading in enumerate(headings):
        shown = _cut(heading, cells.size[0], font.getlength)
        draw.text((cells.place(0, k)[0], top - CAPTION_HEIGHT - GAP // 2), shown, INK, font)
    for k, name in enumerate(row_names):
        draw.text((GAP, cells.place(k, 0)[1] + (tile_height - CAPTION_HEIGHT) // 2), name, INK, font)
    for k, image in enumerate(images):
        x, y = cells.place(k // columns, k % columns)
        tile = Image.fromarray(image[..., 0] if channels == 1 else image).convert("RGB")
        grid.paste(tile.resize(cells.size, Image.Resampling.BICUBIC), (x, y))
        if captions:
            draw.text((x, y + tile_height + 1), captions[k], INK, font)
    return grid


def wrapped(text: str, width: int, length_fn: Callable[[str], float]) -> list[str]:
    """Return the lines of `text`, each broken at spaces to at most `width` pixels; a longer word is cut."""
    lines: list[str] = []
    for line in text.split("\n") if text else []:
        words = line.split(" ")
        now = words[0]
        for word in words[1:]:
            if length_fn(f"{now} {word}") <= width:
                now = f"{now} {word}"
            else:
                lines.append(now)
                now = word
        lines.append(now)
    return [_cut(line, width, length_fn) for line in lines]


def _cut(text: str, width: int, length_fn: Callable[[str], float]) -> str:
    """Return `text`, shortened with an ellipsis if it is wider than `width` pixels."""
    if length_fn(text) <= width:
        return text
    return next((text[:k] + "..." for k in range(len(text), 0, -1) if length_fn(text[:k] + "...") <= width), "")


def save_png(path: Path, image: Image.Image) -> None:
    """Write `image` to `path`, atomically."""
    with atomic_file(path) as stream:
        stream.write(as_png(image))
