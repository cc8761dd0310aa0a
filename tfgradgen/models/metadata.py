"""What a SavedModel does not say of itself: a small JSON file in its folder, and the fingerprint of its content."""

import csv
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfgradgen.checks import UserError, check_choice, fail

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
        except (OSError, ValueError) as error:
            raise fail(str(file), "a readable JSON file", error, "mend or remove it") from None
        if not isinstance(content, dict):
            raise fail(str(file), "a JSON object", type(content).__name__, "see MODEL.md of the shipped models")
        return content
    return {}


def read_label_file(file: Path) -> Any:
    """What `parse_labels` takes, from a JSON file or a text file with one name a line."""
    try:
        text = file.expanduser().read_text(encoding="utf-8")
        return json.loads(text) if file.suffix == ".json" else [line.strip() for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise fail(
            "labels", "imagenet, or a file with one name a line or a JSON list", f"{file} ({error})", "mend it"
        ) from None


def read_class_map(file: Path) -> list[dict[str, str]]:
    """The labels of a CSV file with a column display_name, as sound models bring it; names that occur twice get their line."""
    with file.open(encoding="utf-8", newline="") as stream:
        names = [row.get("display_name") or str(k) for k, row in enumerate(csv.DictReader(stream))]
    return [{"name": name if names.count(name) == 1 else f"{name} {k}"} for k, name in enumerate(names)]


def parse_labels(content: Any, where: str) -> tuple[Label, ...]:
    """Turns a JSON list of names, or of objects with `name` and optionally the other fields of `Label`, into labels."""
    try:
        labels = tuple(
            Label(entry)
            if isinstance(entry, str)
            else Label(entry["name"], entry.get("wnid", ""), entry.get("synset", ""), bool(entry.get("background", False)))
            for entry in content
        )
    except (TypeError, KeyError, AttributeError):
        raise fail(
            where, "a list of class names or of {name, wnid, synset, background}", repr(content)[:60], "mend it"
        ) from None
    if len({label.name for label in labels}) < len(labels):
        raise fail(where, "distinct class names", "a name that occurs twice", "make the names distinct")
    return labels


def parse_range(content: Any, where: str) -> tuple[float, float]:
    """Turns [low, high] into a pair of finite floats with low < high."""
    try:
        low, high = (float(bound) for bound in content)
    except (TypeError, ValueError, OverflowError):
        low, high = 0.0, 0.0
    if not -math.inf < low < high < math.inf:
        raise fail(f"{where} image_range", "two finite numbers, low then high", repr(content), "give for example [-1, 1]")
    return low, high


def check_prior(content: Any, where: str) -> None:
    check_choice(f"{where} prior", content, ("normal",))


def fingerprint(folder: Path) -> str:
    """Returns the sha256 of a SavedModel: of the names and bytes of saved_model.pb, variables/ and assets/, in order."""
    files = [folder / "saved_model.pb"]
    for name in ("variables", "assets"):
        files += sorted(path for path in (folder / name).rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for path in files:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: expected a readable file, got {error.strerror}; check the model's folder.") from None
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
