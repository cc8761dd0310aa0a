"""Renders a report in Markdown, with its images, as report.html. `compare` and `tune` write such reports."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from PIL import Image

from tfgradgen.viewing.html import fill, shrunk, source
from tfgradgen.viewing.markdown import SECTION, Block, Heading, Listing, Paragraph, Span, blocks_of, plain

TEMPLATE, SCRIPTS = "document.html.j2", ("copy.js",)
IMAGE_PIXELS = 4_000_000  # pixels of one image: they bound the size of the file


class Document(NamedTuple):
    """The content of report.html.

    Attributes:
      text: report.md.
      images: The images that it refers to, by file name.
      files: A sentence about the files beside the page.
      version: Version of tfgradgen.
      played: Sources of the sounds and clips that the page plays, by the path in their links. Other links lead to their files.
    """

    text: str
    images: Mapping[str, Image.Image]
    files: str
    version: str
    played: Mapping[str, str] = MappingProxyType({})


class Section(NamedTuple):
    """A heading and what follows it, to the next heading of its level.

    Attributes:
      title: The heading, in words.
      spans: The heading.
      blocks: What follows it.
    """

    title: str
    spans: list[Span]
    blocks: list[Block]


def render_document(document: Document) -> str:
    """Return `document` as HTML; the same document gives the same text."""
    top, *sections = _sections(blocks_of(document.text))
    return fill(
        TEMPLATE,
        SCRIPTS,
        [span.text for section in (top, *sections) for span in _spans(section.blocks) if span.mark == SECTION],
        {"plain": plain},
        top=top,
        sections=sections,
        images={name: source(shrunk([image], IMAGE_PIXELS)[0]) for name, image in document.images.items()},
        played=document.played,
        files=document.files,
        version=document.version,
    )


def _sections(blocks: list[Block]) -> list[Section]:
    """Return the title with what follows it, and each section of the second level."""
    sections: list[Section] = []
    for block in blocks:
        if isinstance(block, Heading) and block.level <= 2:
            sections.append(Section(plain(block.spans), block.spans, []))
        else:
            sections[-1].blocks.append(block)
    return sections


def _spans(blocks: list[Block]) -> Iterator[Span]:
    for block in blocks:
        if isinstance(block, Listing):
            for entry in block.entries:
                yield from entry
        elif isinstance(block, Paragraph):
            yield from block.spans
