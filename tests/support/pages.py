"""HTML as tests read it: every element with its attributes and its text."""

import base64
import io
from html.parser import HTMLParser
from typing import NamedTuple

import numpy as np
from PIL import Image

VOID = {"meta", "link", "img", "input", "br"}  # elements without an end tag
DATA = "data:image/png;base64,"


class Element(NamedTuple):
    tag: str
    attributes: dict[str, str]
    text: list[str]  # all text within, in order


class Parsed(HTMLParser):
    """The elements of a page, in order. An element that is not closed, or closed twice, is an error."""

    def __init__(self, source: str):
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute of {tag} occurs twice"
        element = Element(tag, {name: value or "" for name, value in attrs}, [])
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text.append(data)

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Return the elements of a tag that have these attributes."""
        return [each for each in self.elements if each.tag == tag and attributes.items() <= each.attributes.items()]

    def text_of(self, tag: str, **attributes: str) -> str:
        """Return the text of the only such element."""
        (element,) = self.all(tag, **attributes)
        return "".join(element.text).strip()


def pixels_of(source: str) -> np.ndarray:
    """Return the pixels of an embedded PNG."""
    assert source.startswith(DATA)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.removeprefix(DATA)))))


def check_names(page: Parsed) -> None:
    """Assert that the names of elements are unique, that every reference has a target, and that the language is given."""
    names = [each.attributes["id"] for each in page.elements if "id" in each.attributes]
    assert len(names) == len(set(names))
    for attribute in ("aria-labelledby", "href"):
        targets = [each.attributes[attribute] for each in page.elements if attribute in each.attributes]
        assert {target.removeprefix("#") for target in targets if not target.startswith("data:")} <= set(names)
    assert page.all("html")[0].attributes["lang"] == "en"
