"""Metadata of a SavedModel: an optional model.json in its folder, labels, and the digest of its content."""

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfgradgen.core.checks import check_choice, fail
from tfgradgen.core.files import open_inside
from tfgradgen.core.parsing import parsing, read_json, read_text
from tfgradgen.core.text import printable, value_text
from tfgradgen.media.medium import check_rate
from tfgradgen.media.registry import MEDIA
from tfgradgen.models.loading.inside import parts

FILE_NAME = "model.json"
MAX_BOUND = 1e30  # largest bound of an image range, well within float32
MAX_NAME = 1000  # characters of the name, WordNet id or synset of a class
_CARD: dict[str, tuple[Any, str]] = {
    "image_range": (list, "two numbers, low then high"),
    "image_size": (list, "two positive integers, height and width"),
    "latent_dim": (int, "a positive integer"),
    "prior": (str, "the name of a distribution"),
    "kind": (str, f"the kind of what it gives or takes: {', '.join(MEDIA)}"),
    "sample_rate": ((int, float), "samples per second, a number of at least 1"),
    "frame_rate": ((int, float), "frames per second, a number of at least 1"),
    "output": (str, "logits, probabilities or scores"),
    "signature": (str, "the name of a signature"),
    "labels": ((list, str, dict), "a list of class names or of {name, wnid, synset, background}"),
    "text_signature": (str, "the name of a signature"),
    "image_signature": (str, "the name of a signature"),
    "vocabulary": (str, "the name of a file of tokens"),
    "merges": (str, "the name of a file of merges"),
    "start_token": (str, "a token"),
    "end_token": (str, "a token"),
    "captions": (str, "the name of a file of captions"),
}
MOST_NAMED = 3  # duplicate names that an error lists


@dataclass(frozen=True)
class Label:
    """A class.

    Attributes:
      name: Its name.
      wnid: Its WordNet id; '' if unknown.
      synset: The words of its synset, separated by commas; '' if unknown.
      background: Whether it stands for everything outside of the other classes. The label 'all' excludes it.
    """

    name: str
    wnid: str = ""
    synset: str = ""
    background: bool = False


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return the content of `folder/model.json`; {} if there is none."""
    file = folder / FILE_NAME
    if not os.path.lexists(file):
        return {}
    with parsing(str(file), "a readable JSON file", "correct or remove it"):
        content = read_json(file, within=folder)
    if not isinstance(content, dict):
        raise fail(str(file), "a JSON object", type(content).__name__, "see MODEL.md of the shipped models")
    return checked_card(content, str(file))


def checked_card(content: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the content of a model.json without null entries; raise `UserError` if a setting has the wrong type.

    Values are checked against the model where they are used.
    """
    card = {key: value for key, value in content.items() if value is not None}
    for key, (kind, expected) in _CARD.items():
        if key in card and (not isinstance(card[key], kind) or isinstance(card[key], bool)):
            raise fail(f"{where} {key}", expected, value_text(card[key]), "correct its model.json, or leave it out")
    if "image_range" in card:
        parse_range(card["image_range"], where)
    if "kind" in card:
        check_choice(f"{where} kind", card["kind"], MEDIA)
    for name in ("sample_rate", "frame_rate"):
        if name in card:
            check_rate(f"{where} {name}", card[name])
    return card


def file_of_model(
    folder: Path,
    name: str,
    where: str,
    expected: str = "imagenet, a list, or the name of a file in the model's folder",
    remedy: str = "correct its model.json or give --classifier_labels=FILE",
) -> Path:
    """Return the path of the file `name` of a model; a model.json may not name files, or links to files, outside `folder`.

    The error names `where`, and says what was `expected` and the `remedy`.
    """
    with suppress(OSError, ValueError), open_inside(folder, name):  # no such file, not a path, a cycle of links
        return folder / name
    raise fail(where, expected, value_text(name), remedy)


def read_class_map(file: Path, folder: Path) -> list[dict[str, str]]:
    """Return the labels in a CSV file with a column display_name, as sound models have; duplicate names get their index."""
    with parsing(str(file), "a CSV file in UTF-8 with a column display_name", "correct or remove it", csv.Error):
        rows = csv.DictReader(io.StringIO(read_text(file, within=folder), newline=""))
        names = [row.get("display_name") or str(k) for k, row in enumerate(rows)]
    counts = Counter(names)
    return [{"name": name if counts[name] == 1 else f"{name} {k}"} for k, name in enumerate(names)]


def parse_labels(content: Any, where: str, lines: Sequence[int] = ()) -> tuple[Label, ...]:
    """Return labels from a JSON list of names, or of objects with `name` and optionally the other fields of `Label`.

    All texts are made printable, because names come from outside and go to the terminal, file names and images.

    Args:
      content: The list.
      where: Its source, for errors.
      lines: Line number of each name in a text file.

    Raises:
      UserError: The content is something else, or a name is too long or occurs twice.
    """
    try:
        if not isinstance(content, list | tuple):
            raise TypeError("not a list")
        labels = tuple(map(_label, content))
    except (TypeError, KeyError, AttributeError) as error:
        expected = "a list of class names or of {name, wnid, synset, background}"
        raise fail(where, expected, value_text(content), "correct it") from error
    longest = max((text for label in labels for text in (label.name, label.wnid, label.synset)), key=len, default="")
    if len(longest) > MAX_NAME:
        raise fail(where, f"names of at most {MAX_NAME} characters", f"{longest} ({len(longest)})", "shorten the name")
    counts = Counter(label.name for label in labels)
    if len(counts) < len(labels):
        twice = [name for name, count in counts.items() if count > 1]
        unit, places = ("lines", lines) if lines else ("entries", range(1, len(labels) + 1))
        named = [
            f"{name} in {unit} {' and '.join(str(n) for n, label in zip(places, labels, strict=True) if label.name == name)}"
            for name in twice[:MOST_NAMED]
        ]
        got = "; ".join(named) + (f"; and {len(twice) - MOST_NAMED} more" if len(twice) > MOST_NAMED else "")
        raise fail(where, "distinct class names", got, "make the names distinct")
    return labels


def _label(entry: Any) -> Label:
    if isinstance(entry, str):
        return Label(_name(entry))
    name, wnid, synset = entry["name"], entry.get("wnid", ""), entry.get("synset", "")
    if not (isinstance(name, str) and isinstance(wnid, str) and isinstance(synset, str)):
        raise TypeError("not a string")
    return Label(_name(name), _name(wnid), _name(synset), bool(entry.get("background", False)))


def _name(text: str) -> str:
    """Make `text` printable; cut a text that is too long, which is refused later."""
    return printable(text[: MAX_NAME + 1], None)


def parse_range(content: Any, where: str) -> tuple[float, float]:
    """Return [low, high] as a pair of finite floats with low < high; raise `UserError` otherwise."""
    is_pair = isinstance(content, list | tuple) and len(content) == 2
    bounds = (
        [b for b in content if isinstance(b, int | float) and not isinstance(b, bool) and abs(b) <= MAX_BOUND]
        if is_pair
        else []
    )
    if len(bounds) < 2 or not bounds[0] < bounds[1]:
        expected = "two finite numbers, low then high"
        raise fail(f"{where} image_range", expected, value_text(content), "give [-1, 1], for example")
    return float(bounds[0]), float(bounds[1])


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 of the names and bytes of saved_model.pb, variables/ and assets/, in order.

    Raises:
      UserError: A file cannot be read, is not a regular file or links out of the folder, or a bound of `inside` is exceeded.
    """
    digest = hashlib.sha256()
    for part in parts(folder):
        digest.update(part.header())
        for block in part.blocks:
            digest.update(block)
    return digest.hexdigest()
