"""Measured colours: names of pixels, and which names a region of an image has. NumPy only; no network takes part."""

import functools

import numpy as np

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")
GRID = 32  # images are measured on a grid of GRID x GRID points
RADIUS, RIM = 0.5, 5  # radius of the subject in half images; width of the background in grid points
DARK, BRIGHT = 0.3, 0.65  # mean luma of a dark and of a bright region
_RED, _ORANGE, _YELLOW, _GREEN, _BLUE, _PURPLE, _PINK, _BROWN, _BLACK, _WHITE, _GREY = range(len(COLOURS))
_HUES = ((15, _RED), (36, _ORANGE), (68, _YELLOW), (165, _GREEN), (260, _BLUE), (295, _PURPLE), (342, _PINK), (361, _RED))
_LUMA = np.array([0.299, 0.587, 0.114], "float32")


def colour_index(image):
    """Return the index in `COLOURS` of each pixel, uint8 [..., H, W], of `image` uint8 [..., H, W, 3], to 6 bits a channel."""
    high = (image >> 2).astype("int32")
    return _table()[high[..., 0], high[..., 1], high[..., 2]]


@functools.cache
def _table():
    """Return the index of each colour with 6 bits a channel, uint8 [64, 64, 64]."""
    level = (np.arange(64) * 4 + 1.5).astype("float32")
    return _index_of(np.stack(np.meshgrid(level, level, level, indexing="ij"), -1) / 255)


def _index_of(x):
    """Return the index in `COLOURS` of colours float32 [..., 3] in [0, 1]."""
    high, low = x.max(-1), x.min(-1)
    chroma = high - low
    safe = np.maximum(chroma, 1e-6)
    red, green, blue = (x[..., k] for k in range(3))
    hue = np.where(
        high == red,
        (green - blue) / safe % 6,
        np.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    index = np.take([colour for _, colour in _HUES], np.searchsorted([end for end, _ in _HUES], hue * 60, side="right"))
    saturation = chroma / np.maximum(high, 1e-6)
    warm = (hue * 60 >= 8) & (hue * 60 < 68)
    index = np.where(warm & ((high < 0.5) | (saturation < 0.42)), _BROWN, index)
    index = np.where(((index == _RED) | (index == _PURPLE)) & (saturation < 0.5) & (high > 0.62), _PINK, index)
    index = np.where((index == _RED) & (saturation < 0.5) & (high <= 0.62), _BROWN, index)
    plain = (chroma < 0.1) | (saturation < 0.16)
    luma = x @ _LUMA
    index = np.where(plain, np.where(luma < 0.25, _BLACK, np.where(luma < 0.75, _GREY, _WHITE)), index)
    return np.where(high < 0.2, _BLACK, index).astype("uint8")


def _masks():
    i = (np.arange(GRID) + 0.5) / GRID * 2 - 1
    subject = (i[:, None] ** 2 + i[None] ** 2) < RADIUS**2
    background = np.ones((GRID, GRID), bool)
    background[RIM:-RIM, RIM:-RIM] = False
    return subject, background


SUBJECT, BACKGROUND = _masks()


def sampled(image):
    """Return `image` uint8 [..., H, W, 3] on the grid [..., GRID, GRID, 3]: means of blocks where it is a multiple of it."""
    size = image.shape[-2]
    if size % GRID == 0:
        k = size // GRID
        blocks = image.reshape(*image.shape[:-3], GRID, k, GRID, k, 3)
        return np.round(blocks.mean((-4, -2), dtype="float32")).astype("uint8")
    rows = ((np.arange(GRID) + 0.5) * size / GRID).astype(int)
    return image[..., rows[:, None], rows[None], :]


def measured(image):
    """Measure images uint8 [N, H, W, 3].

    Returns:
      {"subject", "background"}: shares of the colours [N, 11] within the central disc and the rim;
      {"subject_luma", "background_luma", "luma"}: mean luma [N] in [0, 1].
    """
    grid = sampled(image)
    index = colour_index(grid)
    one_hot = index[..., None] == np.arange(len(COLOURS), dtype="uint8")
    luma = grid.astype("float32") / 255 @ _LUMA
    found = {"luma": luma.mean((1, 2))}
    for name, mask in (("subject", SUBJECT), ("background", BACKGROUND)):
        found[name] = one_hot[:, mask].mean(1)
        found[f"{name}_luma"] = luma[:, mask].mean(1)
    return found


def share(found, region, word):
    """Return the share [N] of `word`, a colour, in a region of `measured`; of dark and bright whether the region is it."""
    if word in COLOURS:
        return found[region][:, COLOURS.index(word)]
    luma = found[f"{region}_luma"]
    return (luma < DARK if word == "dark" else luma > BRIGHT).astype("float32")
