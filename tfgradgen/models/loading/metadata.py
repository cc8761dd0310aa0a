"""What a SavedModel does not say of itself: a small JSON file in its folder, and the fingerprint of its content."""

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

from tfgradgen.core.checks import fail
from tfgradgen.core.files import open_inside
from tfgradgen.core.parsing import parsing, read_json, read_text
from tfgradgen.core.text import printable, value_text
from tfgradgen.models.loading.inside import parts

FILE_NAME = "model.json"
MAX_BOUND = 1e30  # of an image range, well within float32
MAX_NAME = 1000  # characters of a class's name, WordNet id or synset
_CARD: dict[str, tuple[Any, str]] = {
    "image_range": (list, "two numbers, low then high"),
    "image_size": (list, "two positive integers, height and width"),
    "latent_dim": (int, "a positive integer"),
    "prior": (str, "the name of a distribution"),
    "output": (str, "logits, probabilities or scores"),
    "signature": (str, "the name of a signature"),
    "labels": ((list, str, dict), "a list of class names or of {name, wnid, synset, background}"),
}
MOST_NAMED = 3  # names that an error gives with their places


@dataclass(frozen=True)
class Label:
    """One class: its name, and where known its WordNet id and the words of its synset.

    background: it stands for what is none of the other classes; `all` leaves it out.
    """

    name: str
    wnid: str = ""
    synset: str = ""
    background: bool = False


def read_metadata(folder: Path) -> dict[str, Any]:
    """Returns the content of `folder/model.json`, {} where there is none."""
    file = folder / FILE_NAME
    if not os.path.lexists(file):
        return {}
    with parsing(str(file), "a readable JSON file", "correct or remove it"):
        content = read_json(file, within=folder)
    if not isinstance(content, dict):
        raise fail(str(file), "a JSON object", type(content).__name__, "see MODEL.md of the shipped models")
    return checked_card(content, str(file))


def checked_card(content: dict[str, Any], where: str) -> dict[str, Any]:
    """A card without its empty entries; raises `UserError` where a setting that a model is loaded by has the wrong type.

    Which of the texts there are, and what fits to the model, is checked where they are used.
    """
    card = {key: value for key, value in content.items() if value is not None}
    for key, (kind, expected) in _CARD.items():
        if key in card and (not isinstance(card[key], kind) or isinstance(card[key], bool)):
            raise fail(f"{where} {key}", expected, value_text(card[key]), "correct its model.json, or leave it out")
    if "image_range" in card:
        parse_range(card["image_range"], where)
    return card


def file_of_model(folder: Path, name: str, where: str) -> Path:
    """The file `name` of the model in `folder`: a stranger's card may name no other, nor a link that leads to one."""
    with suppress(OSError, ValueError), open_inside(folder, name):  # none there, no path, links in a circle
        return folder / name
    expected = "imagenet, a list, or the name of a file in the model's own folder"
    raise fail(where, expected, value_text(name), "correct its model.json or give --classifier_labels=FILE")


def read_class_map(file: Path, folder: Path) -> list[dict[str, str]]:
    """The labels of a CSV file with a column display_name, as sound models bring it in their `folder`; names that occur twice
    get their line."""
    with parsing(str(file), "a CSV file in UTF-8 with a column display_name", "correct or remove it", csv.Error):
        rows = csv.DictReader(io.StringIO(read_text(file, within=folder), newline=""))
        names = [row.get("display_name") or str(k) for k, row in enumerate(rows)]
    counts = Counter(names)
    return [{"name": name if counts[name] == 1 else f"{name} {k}"} for k, name in enumerate(names)]


def parse_labels(content: Any, where: str, lines: Sequence[int] = ()) -> tuple[Label, ...]:
    """Turns a JSON list of names, or of objects with `name` and optionally the other fields of `Label`, into labels.

    Their texts are `printable`: names come from strangers and go to the terminal, into file names and images.

    Args:
      lines: of a text file, on which line each name stands.
    """
    try:
        if not isinstance(content, list | tuple):
            raise TypeError("its letters or keys are no names")
        labels = tuple(map(_label, content))
    except (TypeError, KeyError, AttributeError) as error:
        expected = "a list of class names or of {name, wnid, synset, background}"
        raise fail(where, expected, value_text(content), "correct it") from error
    longest = max((text for label in labels for text in (label.name, label.wnid, label.synset)), key=len, default="")
    if len(longest) > MAX_NAME:
        raise fail(where, f"names of at most {MAX_NAME} characters", f"{longest} ({len(longest)})", "shorten it")
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
        raise TypeError("texts only")
    return Label(_name(name), _name(wnid), _name(synset), bool(entry.get("background", False)))


def _name(text: str) -> str:
    """`text` without what could steer a terminal; of one that is too long only enough to be refused."""
    return printable(text[: MAX_NAME + 1], None)


def parse_range(content: Any, where: str) -> tuple[float, float]:
    """Turns [low, high] into a pair of finite floats with low < high."""
    is_pair = isinstance(content, list | tuple) and len(content) == 2
    bounds = (
        [b for b in content if isinstance(b, int | float) and not isinstance(b, bool) and abs(b) <= MAX_BOUND]
        if is_pair
        else []
    )
    if len(bounds) < 2 or not bounds[0] < bounds[1]:
        raise fail(f"{where} image_range", "two finite numbers, low then high", value_text(content), "give for example [-1, 1]")
    return float(bounds[0]), float(bounds[1])


def fingerprint(folder: Path) -> str:
    """Returns the sha256 of a SavedModel: of the names and bytes of saved_model.pb, variables/ and assets/, in order.

    Raises:
      UserError: a file that cannot be read, is no regular file or links out of the folder, or more than `inside` allows.
    """
    digest = hashlib.sha256()
    for part in parts(folder):
        digest.update(part.header())
        for block in part.blocks:
            digest.update(block)
    return digest.hexdigest()
