"""Renders report.html: one file with all images, styles and scripts in it, which loads nothing.

Text of a run may come from outside. It arrives here escaped for a line (see `core.text`), and Jinja2 escapes it for HTML.
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from tfgradgen.media.image import Image as ImageMedium
from tfgradgen.media.image import picture
from tfgradgen.media.medium import Medium
from tfgradgen.viewing.html import embedded, fill, shrunk, source

TEMPLATE, SCRIPTS = "report.html.j2", ("report.js", "copy.js")
IMAGE = ImageMedium(())
TILE_PIXELS, FILM_PIXELS = 1_000_000, 600_000  # pixels of all tiles, and of all frames: they bound the size of the file


class Frame(NamedTuple):
    """An image of a film.

    Attributes:
      draw: Number of the draw.
      prob: Its p(class), may be NaN.
      is_still: Whether the chain has not moved since the frame before.
      image: uint8 [height, width, 1 or 3].
    """

    draw: int
    prob: float
    is_still: bool
    image: np.ndarray


class Neighbour(NamedTuple):
    """The photograph nearest to an image.

    Attributes:
      image: uint8 [height, width, 3].
      name: Name of the file.
      distance: Distance from the image, >= 0.
    """

    image: np.ndarray
    name: str
    distance: float


class Tile(NamedTuple):
    """The last image of a chain.

    Attributes:
      chain: Number of the chain.
      prob: p(class) of the image, may be NaN.
      image: uint8 [height, width, 1 or 3].
      film: Images of the chain along the run; [] if there is no film of it.
      played: The sound or clip as a file; b"" for an image.
      nearest: The nearest photograph; None if none was sought.
    """

    chain: int
    prob: float
    image: np.ndarray
    film: list[Frame]
    played: bytes = b""
    nearest: Neighbour | None = None


class Verdict(NamedTuple):
    """A line of the diagnosis.

    Attributes:
      word: 'ok' or 'warning'.
      text: The line.
      section: The section of diagnostics/README.md that explains it, or ''.
    """

    word: str
    text: str
    section: str


class Page(NamedTuple):
    """The content of report.html.

    Attributes:
      label: Name of the class.
      kernel: Name of the kernel.
      about: A phrase about kernel, chains and draws.
      seed: The seed.
      draw: Number of the last draw, which the tiles show.
      tiles: One per chain.
      measured: Headings and lines of the summary.
      verdicts: Lines of the diagnosis.
      plots: plots.png.
      plots_text: What plots.png shows, in words.
      command: The command that makes the run again; '' if there is none.
      note: What to know about it.
      version: Version of tfgradgen.
      medium: What the tiles are.
      nearest_text: How near the nearest photographs are; '' if none were sought.
    """

    label: str
    kernel: str
    about: str
    seed: int
    draw: int
    tiles: list[Tile]
    measured: list[tuple[str, str]]
    verdicts: list[Verdict]
    plots: Image.Image
    plots_text: str
    command: str
    note: str
    version: str
    medium: Medium = IMAGE
    nearest_text: str = ""


def render(page: Page) -> str:
    """Return `page` as HTML; the same page gives the same text."""
    is_shown = not page.medium.is_audible
    stills = shrunk([picture(tile.image) for tile in page.tiles], TILE_PIXELS)
    sources = [
        embedded(page.medium.mime, tile.played) if tile.played and is_shown else source(still)
        for tile, still in zip(page.tiles, stills, strict=True)
    ]
    near = iter(shrunk([picture(tile.nearest.image) for tile in page.tiles if tile.nearest], TILE_PIXELS))
    films = iter(shrunk([picture(frame.image) for tile in page.tiles for frame in tile.film], FILM_PIXELS))
    return fill(
        TEMPLATE,
        SCRIPTS,
        [verdict.section for verdict in page.verdicts if verdict.section],
        {"prob": _prob, "rank": _rank},
        page=page,
        tiles=[
            (
                tile,
                of_tile,
                source(next(near)) if tile.nearest else "",
                [(frame, source(next(films))) for frame in tile.film],
                embedded(page.medium.mime, tile.played) if tile.played and not is_shown else "",
            )
            for tile, of_tile in zip(page.tiles, sources, strict=True)
        ],
        num_films=sum(bool(tile.film) for tile in page.tiles),
        plots=source(page.plots),
    )


def _prob(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "unknown"


def _rank(value: float) -> str:
    """Return a number that sorts images by p(class), unknown ones last."""
    return repr(value) if math.isfinite(value) else "-1"
