"""Pictures on disk: grids of tiles with captions."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tfgradgen.contracts import GeneratorLike

CAPTION_HEIGHT = 16  # pixels below each tile
GAP = 4
DECODE_BATCH = 64
WAVEFORM_SIZE = (64, 128)
BACKGROUND, INK = (255, 255, 255), (40, 40, 40)


def to_uint8(image: Any) -> np.ndarray:
    """`image` [..., height, width, channels] in [-1, 1] -> uint8, rounded; values outside the range are clipped."""
    return np.clip(np.rint((np.asarray(image, np.float32) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def decode(generator: GeneratorLike, z: np.ndarray, batch_size: int | None = None) -> np.ndarray:
    """uint8 pictures [B, height, width, channels] of `z` [B, latent_dim], a batch at a time; drawings of waveforms."""
    size = min(batch_size or DECODE_BATCH, DECODE_BATCH)
    batches = [np.asarray(generator(z[k : k + size])) for k in range(0, len(z), size)]
    return np.concatenate([draw_waveforms(batch) if batch.ndim == 2 else to_uint8(batch) for batch in batches])


def draw_waveforms(waveform: np.ndarray) -> np.ndarray:
    """`waveform` [B, num_samples] in [-1, 1] -> uint8 [B, 64, 128, 1]: from lowest to highest sample of each column."""
    height, width = WAVEFORM_SIZE
    ends = np.linspace(0, waveform.shape[1], width + 1).astype(int)
    parts = [waveform[:, start : max(end, start + 1)] for start, end in pairwise(ends)]
    lows, highs = (np.stack([fn(part, 1) for part in parts], 1)[:, None] for fn in (np.min, np.max))
    levels = np.linspace(1, -1, height)[None, :, None]
    half = 1 / (height - 1)
    return np.where((levels >= lows - half) & (levels <= highs + half), 40, 255).astype(np.uint8)[..., None]


def read_pictures(paths: Sequence[Path], width: int, height: int) -> np.ndarray:
    """uint8 RGB [N, height, width, 3] of picture files, resized where they need it."""
    pictures = []
    for path in paths:
        with Image.open(path) as picture:
            rgb = picture.convert("RGB")
            same = rgb.size == (width, height)
            pictures.append(np.asarray(rgb if same else rgb.resize((width, height), Image.Resampling.LANCZOS)))
    return np.stack(pictures)


def make_grid(
    images: np.ndarray,
    captions: Sequence[str] = (),
    num_columns: int | None = None,
    tile_size: int = 128,
    title: str = "",
    headings: Sequence[str] = (),
    row_names: Sequence[str] = (),
) -> Image.Image:
    """Lays out uint8 `images` [N, height, width, 1 or 3] as one picture, row by row.

    Args:
      captions: one a tile, written below it.
      num_columns: by default the smallest square that holds all tiles.
      tile_size: pixels; smaller tiles are enlarged to at least this height.
      title: written above the tiles.
      headings: one a column, written above its first tile, cut where they are wider.
      row_names: one a row, written at its left.
    """
    count, height, width, channels = images.shape
    columns = num_columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    scale = max(1, round(tile_size / height))
    cell_width, cell_height = width * scale + GAP, height * scale + GAP + (CAPTION_HEIGHT if captions else 0)
    top = GAP + CAPTION_HEIGHT * (bool(title) + bool(headings))
    font = ImageFont.load_default(size=CAPTION_HEIGHT - 4)
    left = GAP + max((int(font.getlength(name)) + 2 * GAP for name in row_names), default=0)
    grid = Image.new("RGB", (left + columns * cell_width, rows * cell_height + top), BACKGROUND)
    draw = ImageDraw.Draw(grid)
    if title:
        draw.text((GAP, GAP // 2), title, INK, font)
    for k, heading in enumerate(headings):
        shown = _cut(heading, cell_width - GAP, font.getlength)
        draw.text((left + k * cell_width, top - CAPTION_HEIGHT - GAP // 2), shown, INK, font)
    for k, name in enumerate(row_names):
        draw.text((GAP, top + k * cell_height + (height * scale - CAPTION_HEIGHT) // 2), name, INK, font)
    for k, image in enumerate(images):
        x, y = left + k % columns * cell_width, top + k // columns * cell_height
        tile = Image.fromarray(image[..., 0] if channels == 1 else image).convert("RGB")
        grid.paste(tile.resize((width * scale, height * scale), Image.Resampling.BICUBIC), (x, y))
        if captions:
            draw.text((x, y + height * scale + 1), captions[k], INK, font)
    return grid


def _cut(text: str, width: int, length_fn: Callable[[str], float]) -> str:
    """`text`, or as much of its beginning as fits into `width` pixels before dots."""
    if length_fn(text) <= width:
        return text
    return next((text[:k] + "..." for k in range(len(text), 0, -1) if length_fn(text[:k] + "...") <= width), "")


def save_png(path: Path, picture: Image.Image) -> None:
    """Writes `picture` beside `path` and renames it into place."""
    beside = path.with_name(f".{path.name}.partial")
    picture.save(beside, "PNG")
    beside.replace(path)
