"""What all pages share: their templates, and that a page is one file which loads nothing."""

import base64
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from tfgradgen.core.text import FLAG
from tfgradgen.diagnostics import issues
from tfgradgen.media.image import as_png
from tfgradgen.viewing.markdown import explanation

HERE = Path(__file__).resolve().parent
STYLES = ("base.css", "report.css")
SMALLEST = 8  # pixels, the least height and width of an image
MOST_BYTES = 24_000_000  # of the sounds or clips of a page


def fill(
    template: str,
    scripts: Sequence[str],
    linked: Iterable[str],
    filters: Mapping[str, Callable[[Any], str]] | None = None,
    **values: Any,
) -> str:
    """Return a page as HTML; the same values give the same text.

    Args:
      template: Name of the template.
      scripts: Names of its scripts, which are joined.
      linked: Sections of diagnostics/README.md that the page links to; it explains them.
      filters: Further filters of the template.
      **values: Values for the template.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"whole_flags": whole_flags, **(filters or {})}
    style = "".join((HERE / name).read_text(encoding="utf-8") for name in STYLES)
    script = '"use strict";\n' + "".join((HERE / name).read_text(encoding="utf-8") for name in scripts)
    text = environment.get_template(template).render(
        explained={section: explanation(section) for section in dict.fromkeys(linked)},
        pages_file=issues.PAGES_FILE,
        style=style,
        script=script,
        policy=_policy(style, script),
        **values,
    )
    return text + "\n"


def whole_flags(text: str) -> Markup:
    """Return `text` as HTML in which no line ends within a flag."""
    return Markup(FLAG.sub(r'<span class="flag">\g<0></span>', str(escape(text))))


def source(image: Image.Image) -> str:
    """Return `image` as the source of an HTML image."""
    return embedded("image/png", as_png(image))


def embedded(mime: str, content: bytes) -> str:
    """Return the content of a file as a source within a page."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def shrunk(images: Sequence[Image.Image], num_pixels: int) -> list[Image.Image]:
    """Return images of one size, made smaller if they have more than `num_pixels` in total."""
    if not images:
        return []
    width, height = images[0].size
    factor = min(1.0, math.sqrt(num_pixels / (len(images) * height * width)))
    size = (max(round(width * factor), min(width, SMALLEST)), max(round(height * factor), min(height, SMALLEST)))
    return [each if each.size == size else each.resize(size, Image.Resampling.LANCZOS) for each in images]


def _policy(style: str, script: str) -> str:
    """Return a content security policy that allows this style and script, embedded images and sounds, and nothing else."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    of_style, of_script = (f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; img-src data:; media-src data:; style-src {of_style}; script-src {of_script}; "
        "base-uri 'none'; form-action 'none'"
    )
