"""report.html of `compare` and `tune`: it has the content of report.md, and nothing in it acts on its own."""

import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.documents import HOSTILE, a_comparison, a_search
from tests.support.pages import Parsed, check_names, pixels_of
from tfgradgen.core.text import markdown_text, printable
from tfgradgen.diagnostics.issues import with_page
from tfgradgen.viewing.document import IMAGE_PIXELS, Document, render_document
from tfgradgen.viewing.markdown import Code, Figure, Heading, Listing, Paragraph, Table, blocks_of, plain, spans_of

MADE = {"compare": a_comparison, "tune": a_search}


def words(text: str) -> list[str]:
    return text.split()


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_it_says_what_report_md_says(made: Any) -> None:
    document = made()
    page = Parsed(render_document(document))
    shown = words(page.text_of("main"))
    blocks = blocks_of(document.text)
    for block in blocks:
        if isinstance(block, Heading | Paragraph):
            assert " ".join(words(plain(block.spans))) in " ".join(shown)
    tables = [block for block in blocks if isinstance(block, Table)]
    assert len(tables) == len(page.all("table")) >= 2
    for table, element in zip(tables, page.all("table"), strict=True):
        cells = [cell for row in [table.heads, *table.rows] for cell in row]
        assert words("".join(element.text)) == words(" ".join(plain(cell) for cell in cells))
    codes = [block.text for block in blocks if isinstance(block, Code)]
    assert ["".join(each.text) for each in page.all("pre")] == codes
    assert len(page.all("button")) == len(codes)
    assert not re.search(r"\*\*|\]\(|^##|\\[_*]", page.text_of("main"), re.MULTILINE), "Markdown that nothing renders"


def test_a_comparison_ends_with_its_command_and_a_search_shows_its_best_schedule() -> None:
    comparison, search = (Parsed(render_document(made())) for made in MADE.values())
    assert "".join(comparison.all("h2")[-1].text) == "Make this comparison again"
    assert comparison.text_of("pre") == "python -m tfgradgen compare --labels=goldfish,monarch"
    best, sample, again = ("".join(each.text) for each in search.all("pre"))
    assert "\nkernel: mala\n" in best
    assert sample.endswith("--schedule=best.yaml")
    assert again == "the command"
    assert "were compared with exact draws of one" in search.text_of("main"), "the guard"


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_images_are_embedded_and_described(made: Any) -> None:
    document = made()
    page = Parsed(render_document(document))
    found = [block for block in blocks_of(document.text) if isinstance(block, Figure)]
    assert {block.file for block in found} == set(document.images)
    for block, image in zip(found, page.all("img"), strict=True):
        assert image.attributes["alt"] == block.alt
        assert len(block.alt) > 40
        np.testing.assert_array_equal(pixels_of(image.attributes["src"]), np.asarray(document.images[block.file]))


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_names_are_unique_and_every_reference_has_a_target(made: Any) -> None:
    page = Parsed(render_document(made([with_page("models", "goldfish: a finding")])))
    check_names(page)
    assert not [name for each in page.elements for name in each.attributes if name.startswith("on") or name == "style"]
    (warning,) = page.all("li", **{"class": "warning"})
    assert words("".join(warning.text)) == words("warning goldfish: a finding About models")
    assert page.all("section", id="about-models")


def test_a_page_without_warnings_has_no_such_section() -> None:
    page = Parsed(render_document(a_comparison()))
    assert not page.all("ul", **{"class": "verdicts"})
    assert "Warnings" not in ["".join(each.text) for each in page.all("h2")]


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_hostile_text_stays_text(made: Any) -> None:
    usual, found = (Parsed(source) for source in (render_document(made(label="x")), render_document(made(label=HOSTILE))))
    assert [each.tag for each in found.elements] == [each.tag for each in usual.elements]
    assert printable(HOSTILE, None).replace("|", "/") in found.text_of("main").replace("|", "/")
    assert "\x1b" not in "".join(found.elements[0].text)


def test_linked_files_are_played_in_the_page_or_stay_links() -> None:
    table = "| method | *a* |\n| --- | --- |\n" + "\n".join(f"| `m{k}` | [play](pictures/{k}%20.wav) |" for k in range(3))
    played = {"pictures/0%20.wav": "data:audio/wav;base64,AA==", "pictures/1%20.wav": "data:image/gif;base64,AA=="}
    page = Parsed(render_document(Document(f"# a\n\n{table}", {}, "", "", played)))
    (sound,), (clip,) = page.all("audio"), page.all("img")
    assert (sound.attributes["src"], sound.attributes["aria-label"]) == (played["pictures/0%20.wav"], "m0, a")
    assert (clip.attributes["src"], clip.attributes["alt"]) == (played["pictures/1%20.wav"], "m1, a")
    assert [each.attributes["href"] for each in page.all("a") if each.text == ["play"]] == ["pictures/2%20.wav"]


@pytest.mark.parametrize("text", ["[a](https://b.c)", "[a](//b)", "[a](../b)", "[a](javascript:b)"])
def test_only_files_beside_the_report_are_linked(text: str) -> None:
    assert [span.mark for span in spans_of(text)] == [""]


def test_a_large_image_is_made_smaller() -> None:
    image = Image.new("RGB", (4000, 2000))
    source = Parsed(render_document(Document("# a\n\n![b](c.png)", {"c.png": image}, "", ""))).all("img")[0].attributes["src"]
    height, width, _ = pixels_of(source).shape
    assert 0.98 * IMAGE_PIXELS < height * width <= 1.01 * IMAGE_PIXELS
    assert width == 2 * height or abs(width / height - 2) < 0.01


@pytest.mark.parametrize(
    "text", [HOSTILE, "a*b_c_ `d` **e**", "1. a", "# a", "&lt; &amp;lt;", "a|b", "[a](b) ![c](d)", "\\`\\\\*"]
)
def test_escaped_text_is_read_as_it_was(text: str) -> None:
    assert [span.mark for span in spans_of(markdown_text(text))] == [""]
    assert plain(spans_of(markdown_text(text))) == printable(text, None)


def test_marks_are_read() -> None:
    assert [tuple(span) for span in spans_of("a **b `c` d** *e*")] == [
        *[("a ", "", ""), ("b ", "strong", ""), ("c", "code", ""), (" d", "strong", ""), (" ", "", ""), ("e", "em", "")]
    ]
    blocks = blocks_of("# a\n\nb\nc\n\n- d\n- e\n\n```\n# f\n\ng\n```\n\n| h | i |\n| --- | ---: |\n| j \\| k | l |\n")
    assert [block.kind for block in blocks] == ["heading", "paragraph", "listing", "code", "table"]
    _, paragraph, listing, code, table = blocks
    assert isinstance(paragraph, Paragraph)
    assert plain(paragraph.spans) == "b c"
    assert isinstance(listing, Listing)
    assert [plain(entry) for entry in listing.entries] == ["d", "e"]
    assert isinstance(code, Code)
    assert code.text == "# f\n\ng"
    assert isinstance(table, Table)
    assert [[plain(cell) for cell in row] for row in table.rows] == [["j | k", "l"]]
    assert table.are_numbers == [False, True]
