"""Reads the Markdown of the package's own reports, so that report.html says the same as report.md.

It knows what these reports use: headings, paragraphs, lists, tables, fenced code, images, and links to files beside the report.
Anything else is shown as text.
Text from outside is escaped in them by `core.text.markdown_text`; here it becomes plain text again, and Jinja2 escapes it for
HTML.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from tfgradgen.diagnostics import issues

CODE, STRONG, EMPHASIS, SECTION, LINK = "code", "strong", "em", "section", "link"
_PUNCTUATION = r"!-/:-@\[-`{-~"
_TOKEN = re.compile(
    rf"\\(?P<escaped>[{_PUNCTUATION}])|`(?P<code>[^`]+)`|(?P<strong>\*\*)|(?P<em>\*)"
    rf"|\({re.escape(issues.PAGES_FILE)}#(?P<section>[a-z-]+)\)"
    r"|\[(?P<link>[^\]\\]+)\]\((?P<target>\w[\w.%/-]*)\)"
)
_FENCE = re.compile(r"^```\w*\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
_FIGURE = re.compile(r"!\[(.*)\]\((\S+)\)", re.DOTALL)
_CELL_END = re.compile(r"(?<!\\)\|")


class Span(NamedTuple):
    """A part of a line.

    Attributes:
      text: The text; for `SECTION` the name of a section of diagnostics/README.md.
      mark: `CODE`, `STRONG`, `EMPHASIS`, `SECTION`, `LINK`, or ''.
      target: For `LINK`, the path of the file, in the form of a URL.
    """

    text: str
    mark: str
    target: str = ""


@dataclass(frozen=True)
class Heading:
    """A heading of `level` 1 to 3."""

    level: int
    spans: list[Span]
    kind: ClassVar[str] = "heading"


@dataclass(frozen=True)
class Paragraph:
    """A paragraph."""

    spans: list[Span]
    kind: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Listing:
    """A list."""

    entries: list[list[Span]]
    kind: ClassVar[str] = "listing"

    @property
    def are_warnings(self) -> bool:
        """Whether every entry leads to the section that explains it; warnings do, and nothing else does."""
        return all(any(span.mark == SECTION for span in entry) for entry in self.entries)


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      heads: Headings of the columns.
      rows: Cells by row; the first one names the row.
      are_numbers: Whether each column is aligned to the right.
    """

    heads: list[list[Span]]
    rows: list[list[list[Span]]]
    are_numbers: list[bool]
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Code:
    """Code, such as a command."""

    text: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Figure:
    """An image in a file beside the report, and in words what it shows."""

    alt: str
    file: str
    kind: ClassVar[str] = "figure"


Block = Heading | Paragraph | Listing | Table | Code | Figure


def blocks_of(text: str) -> list[Block]:
    """Return the blocks of a report, in order."""
    blocks: list[Block] = []
    for k, part in enumerate(_FENCE.split(text)):
        if k % 2:
            blocks.append(Code(part))
        else:
            blocks += [_block(lines.strip("\n")) for lines in re.split(r"\n{2,}", part) if lines.strip()]
    return blocks


def spans_of(line: str) -> list[Span]:
    """Return the parts of a line. Marks that are not closed hold to its end."""
    spans: list[Span] = []
    mark, end = "", 0
    for token in _TOKEN.finditer(line):
        _add(spans, html.unescape(line[end : token.start()]), mark)
        end = token.end()
        if token[STRONG] or token[EMPHASIS]:
            opened = STRONG if token[STRONG] else EMPHASIS
            mark = "" if mark == opened else opened
        elif token["escaped"]:
            _add(spans, token["escaped"], mark)
        else:
            name = next(name for name in (CODE, SECTION, LINK) if token[name])
            spans.append(Span(token[name], name, token["target"] or ""))
    _add(spans, html.unescape(line[end:]), mark)
    return spans


def plain(spans: Sequence[Span]) -> str:
    """Return the text of `spans` without marks."""
    return "".join(span.text for span in spans)


def explanation(section: str) -> list[list[Span]]:
    """Return the paragraphs of a section of diagnostics/README.md."""
    text = Path(issues.__file__).with_name("README.md").read_text(encoding="utf-8")
    _, _, rest = text.partition(f"\n## {section}\n")
    return [spans_of(" ".join(part.split())) for part in rest.partition("\n## ")[0].strip().split("\n\n")]


def _add(spans: list[Span], text: str, mark: str) -> None:
    """Add `text`, to the last span if that has the same mark."""
    if spans and spans[-1].mark == mark and mark not in (CODE, SECTION, LINK):
        spans[-1] = Span(spans[-1].text + text, mark)
    elif text:
        spans.append(Span(text, mark))


def _block(text: str) -> Block:
    lines = text.split("\n")
    if found := re.match(r"(#{1,3}) (.*)", text):
        return Heading(len(found[1]), spans_of(found[2]))
    if found := _FIGURE.fullmatch(text):
        return Figure(plain(spans_of(found[1])), found[2])
    if all(line.startswith("- ") for line in lines):
        return Listing([spans_of(line.removeprefix("- ")) for line in lines])
    if len(lines) > 1 and re.fullmatch(r"[|:\- ]+", lines[1]) and lines[0].startswith("|"):
        heads, ruler, *rows = ([cell.strip() for cell in _CELL_END.split(line.strip())[1:-1]] for line in lines)
        return Table(
            [spans_of(cell) for cell in heads],
            [[spans_of(cell) for cell in row] for row in rows],
            [cell.endswith(":") for cell in ruler],
        )
    return Paragraph(spans_of(" ".join(text.split())))
