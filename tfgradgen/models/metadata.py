"""What a SavedModel does not say of itself: a small JSON file in its folder, and the fingerprint of its content."""

import csv
import hashlib
import json
import math
import os
import reprlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfgradgen.checks import check_choice, fail
from tfgradgen.models.inside import parts
from tfgradgen.text import printable

FILE_NAME = "model.json"


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
    """Returns the content of `folder/model.json`; without one, of a `labels.json` in the folder or beside it, else {}."""
    for file, wrap in (
        (folder / FILE_NAME, lambda content: content),
        (folder / "labels.json", lambda content: {"labels": content}),
        (folder.parent / "labels.json", lambda content: {"labels": content}),
    ):
        if not file.is_file():
            continue
        try:
            content = wrap(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise fail(str(file), "a readable JSON file", error, "mend or remove it") from None
        if not isinstance(content, dict):
            raise fail(str(file), "a JSON object", type(content).__name__, "see MODEL.md of the shipped models")
        return content
    return {}


def read_label_file(file: Path) -> Any:
    """What `parse_labels` takes, from a JSON file or a text file with one name a line."""
    path = os.path.expanduser(file)
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for without end
            raise ValueError("no regular file")
        text = Path(path).read_text(encoding="utf-8")
        return json.loads(text) if file.suffix == ".json" else [line.strip() for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise fail(
            "labels", "imagenet, or a file with one name a line or a JSON list", f"{file} ({error})", "mend it"
        ) from None


def file_of_model(folder: Path, name: str, where: str) -> Path:
    """The file `name` of the model in `folder`: a stranger's card may name no other, nor a link that leads to one."""
    try:
        file = (folder / name).resolve(strict=True)
        if file.is_file() and file.is_relative_to(folder.resolve()):
            return file
    except (OSError, ValueError, RuntimeError):  # none there, no path, links in a circle
        pass
    expected = "imagenet, a list, or the name of a file in the model's own folder"
    raise fail(where, expected, repr(name)[:100], "mend its model.json or give --classifier_labels=FILE")


def read_class_map(file: Path) -> list[dict[str, str]]:
    """The labels of a CSV file with a column display_name, as sound models bring it; names that occur twice get their line."""
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            names = [row.get("display_name") or str(k) for k, row in enumerate(csv.DictReader(stream))]
    except (OSError, ValueError, csv.Error) as error:
        raise fail(str(file), "a CSV file in UTF-8 with a column display_name", error, "mend or remove it") from None
    counts = Counter(names)
    return [{"name": name if counts[name] == 1 else f"{name} {k}"} for k, name in enumerate(names)]


def parse_labels(content: Any, where: str) -> tuple[Label, ...]:
    """Turns a JSON list of names, or of objects with `name` and optionally the other fields of `Label`, into labels.

    Their texts are `printable`: names come from strangers and go to the terminal, into file names and pictures.
    """
    try:
        if isinstance(content, str | dict):
            raise TypeError("its letters or keys are no names")
        labels = tuple(map(_label, content))
    except (TypeError, KeyError, AttributeError):
        expected = "a list of class names or of {name, wnid, synset, background}"
        raise fail(where, expected, reprlib.repr(content)[:60], "mend it") from None
    if len({label.name for label in labels}) < len(labels):
        raise fail(where, "distinct class names", "a name that occurs twice", "make the names distinct")
    return labels


def _label(entry: Any) -> Label:
    if isinstance(entry, str):
        return Label(printable(entry, None))
    name, wnid, synset = entry["name"], entry.get("wnid", ""), entry.get("synset", "")
    if not (isinstance(name, str) and isinstance(wnid, str) and isinstance(synset, str)):
        raise TypeError("texts only")
    return Label(printable(name, None), printable(wnid, None), printable(synset, None), bool(entry.get("background", False)))


def parse_range(content: Any, where: str) -> tuple[float, float]:
    """Turns [low, high] into a pair of finite floats with low < high."""
    try:
        low, high = (float(bound) for bound in content)
    except (TypeError, ValueError, OverflowError):
        low, high = 0.0, 0.0
    if not -math.inf < low < high < math.inf:
        raise fail(
            f"{where} image_range", "two finite numbers, low then high", reprlib.repr(content), "give for example [-1, 1]"
        )
    return low, high


def check_prior(content: Any, where: str) -> None:
    check_choice(f"{where} prior", content, ("normal",))


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
