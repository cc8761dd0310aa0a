"""Renders report.html: one file with all images, styles and scripts in it, which loads nothing.

Text of a run may come from outside. It arrives here escaped for a line (see `core.text`), and Jinja2 escapes it for HTML.
"""

import base64
import hashlib
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from tfgradgen.diagnostics import issues
from tfgradgen.io.images import as_png

HERE = Path(__file__).resolve().parent
TEMPLATE, STYLE, SCRIPT = "report.html.j2", "report.css", "report.js"
TILE_PIXELS, FILM_PIXELS = 1_000_000, 600_000  # pixels of all tiles, and of all frames: they bound the size of the file
SMALLEST = 8  # pixels, the least height and width of an image


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


class Tile(NamedTuple):
    """The last image of a chain.

    Attributes:
      chain: Number of the chain.
      prob: p(class) of the image, may be NaN.
      image: uint8 [height, width, 1 or 3].
      film: Images of the chain along the run; [] if there is no film of it.
    """

    chain: int
    prob: float
    image: np.ndarray
    film: list[Frame]


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
      version: Of tfgradgen.
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


def render(page: Page) -> str:
    """Return `page` as HTML; the same page gives the same text."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"prob": _prob, "rank": _rank}
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in (STYLE, SCRIPT))
    sections = dict.fromkeys(verdict.section for verdict in page.verdicts if verdict.section)
    sources = [data_url(image) for image in shrunk([tile.image for tile in page.tiles], TILE_PIXELS)]
    films = iter(shrunk([frame.image for tile in page.tiles for frame in tile.film], FILM_PIXELS))
    text = environment.get_template(TEMPLATE).render(
        page=page,
        tiles=[
            (tile, source, [(frame, data_url(next(films))) for frame in tile.film])
            for tile, source in zip(page.tiles, sources, strict=True)
        ],
        num_films=sum(bool(tile.film) for tile in page.tiles),
        plots=data_url(page.plots),
        explained={section: explanation(section) for section in sections},
        pages_file=issues.PAGES_FILE,
        style=style,
        script=script,
        policy=_policy(style, script),
    )
    return text + "\n"


def explanation(section: str) -> list[list[tuple[str, bool]]]:
    """Return a section of diagnostics/README.md as paragraphs of parts: a text, and whether it is code."""
    text = Path(issues.__file__).with_name("README.md").read_text(encoding="utf-8")
    _, _, rest = text.partition(f"\n## {section}\n")
    paragraphs = [" ".join(part.split()) for part in rest.partition("\n## ")[0].strip().split("\n\n")]
    return [[(part, k % 2 == 1) for k, part in enumerate(re.split("`([^`]+)`", paragraph)) if part] for paragraph in paragraphs]


def _policy(style: str, script: str) -> str:
    """Return a content security policy that allows this style and script, embedded images, and nothing else."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    of_style, of_script = (f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; img-src data:; style-src {of_style}; script-src {of_script}; base-uri 'none'; form-action 'none'"
    )


def shrunk(images: list[np.ndarray], num_pixels: int) -> list[Image.Image]:
    """Return images of one size, made smaller if they have more than `num_pixels` in total."""
    if not images:
        return []
    height, width = images[0].shape[:2]
    factor = min(1.0, math.sqrt(num_pixels / (len(images) * height * width)))
    size = (max(round(width * factor), min(width, SMALLEST)), max(round(height * factor), min(height, SMALLEST)))
    return [
        each if each.size == size else each.resize(size, Image.Resampling.LANCZOS)
        for each in (Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in images)
    ]


def data_url(image: Image.Image) -> str:
    """Return an image as a PNG in a URL."""
    return f"data:image/png;base64,{base64.b64encode(as_png(image)).decode()}"


def _prob(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "unknown"


def _rank(value: float) -> str:
    """Return a number that sorts images by p(class), unknown ones last."""
    return repr(value) if math.isfinite(value) else "-1"
