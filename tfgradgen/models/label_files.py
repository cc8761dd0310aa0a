"""Files of class names that come with models, and the formats of their content."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.files import open_inside
from tfgradgen.core.parsing import parsing, read_bytes
from tfgradgen.models.imagenet import imagenet_labels
from tfgradgen.models.loading.metadata import Label, file_of_model, parse_labels, read_class_map

MAX_BYTES = 16 << 20  # bytes in a file of names
FILES = ("labels.json", "labels.txt", "class_names.json", "class_names.txt", "classes.json", "classes.txt", "class_index.json")
CLASS_MAP, HUGGING_FACE = "*class_map.csv", "config.json"
EXPECTED = "imagenet, or a file with one name per line or a JSON list"

_WNID = re.compile(r"n\d{8}")
_WNID_LINE = re.compile(r"(n\d{8})[\s,:]+(\S.*)")
_NUMBERED = re.compile(r"(\d{1,7})(?:[:;,.)]\s+|[:;,]|\s+)(\S.*)")
_LISTS = ("id2label", "labels", "names", "class_names", "classes")  # possible keys in a larger JSON object


class Named(NamedTuple):
    """Labels, and the file that they come from."""

    labels: tuple[Label, ...]
    where: str


def read_labels(source: Any, folder: Path, where: str, num_classes: int = 1000) -> tuple[Label, ...]:
    """Return the labels that a model.json gives: 'imagenet', the name of a file in the model's `folder`, or the labels.

    Raises:
      UserError: There is no such file, or `parse_content` does not know its format; the message names `where`.
    """
    if source == "imagenet":
        return imagenet_labels(num_classes)
    if isinstance(source, str):
        return read_label_file(file_of_model(folder, source, f"labels of {where}"), folder).labels
    return parse_content(source, f"labels of {where}")


def labels_inside(folder: Path) -> tuple[Label, ...]:
    """Return the labels in the first file of `FILES` in a model's folder or its assets; () if there is none."""
    found = _first(folder, [folder, folder / "assets"])
    return found.labels if found else ()


def find_labels(folder: Path) -> Named | None:
    """Return the labels in the first such file in a model's folder, its assets or its parent folder; None if there is none.

    Raises:
      UserError: Such a file cannot be read.
    """
    return _first(folder, [folder, folder / "assets", folder.parent])


def _first(folder: Path, places: Sequence[Path]) -> Named | None:
    for place in places:
        for name in FILES:
            if os.path.lexists(place / name) and not _is_foreign(place / name, folder):
                return read_label_file(place / name, None if place == folder.parent else folder)
        maps = sorted(path for path in place.glob(CLASS_MAP) if path.is_file() and not _is_foreign(path, folder))
        if maps and place != folder.parent:
            return Named(parse_labels(read_class_map(maps[0], folder), str(maps[0])), str(maps[0]))
        found = _of_hugging_face(place / HUGGING_FACE) if place == folder else None
        if found:
            return found
    return None


def _is_foreign(file: Path, folder: Path) -> bool:
    """Return whether `file` is a link that leads out of the model's folder, or is next to the folder and a link."""
    if not file.is_symlink():
        return False
    if not file.is_relative_to(folder):
        return True
    try:
        open_inside(folder, os.path.abspath(file)).close()
    except OSError:  # leads out, nowhere, or in a circle
        return True
    return False


def _of_hugging_face(file: Path) -> Named | None:
    """Return `id2label` of a config.json; None if there is none, as other programs use this file name too."""
    if not file.is_file() or _is_foreign(file, file.parent):
        return None
    try:
        content = json.loads(read_bytes(file, MAX_BYTES, file.parent).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("id2label"), dict):
        return None
    return Named(parse_content(content["id2label"], str(file)), str(file))


def read_label_file(file: Path, within: Path | None = None) -> Named:
    """Return the labels in a JSON file, or in a text file with one name per line.

    A byte order mark, empty lines and lines that start with # are ignored. If all lines are numbered from 0 or 1 without a
    gap, as in `0 Rock`, the number is the index of the class and not part of its name. If all lines start with a WordNet id,
    it becomes that of the label.

    Args:
      file: The file.
      within: The folder of the model that the file belongs to; None for a file that the user names.

    Raises:
      UserError: The file cannot be read, leads out of that folder, or holds no labels.
    """
    where, path = f"labels {file}", Path(os.path.expanduser(file))
    with parsing(where, EXPECTED, "correct the file"):
        text = read_bytes(path, MAX_BYTES, within).decode("utf-8-sig")
        content = json.loads(text) if path.suffix.lower() == ".json" else None
    if content is not None:
        return Named(parse_content(content, where), str(file))
    return Named(_parse_lines(text, where), str(file))


def parse_content(content: Any, where: str) -> tuple[Label, ...]:
    """Return labels from JSON content.

    Known formats are a list of names, of {name, wnid, synset} or of [WordNet id, name]; {index: any of these}; {name: index};
    and an object with one of these under id2label, labels, names, class_names or classes.

    Raises:
      UserError: The content has another format; the message names `where`.
    """
    if isinstance(content, dict):
        key = next((key for key in _LISTS if isinstance(content.get(key), list | dict)), None)
        content = content[key] if key else content
    if isinstance(content, dict) and content:
        content = _in_order(content, where)
    if isinstance(content, list | tuple):
        content = [_entry(item) for item in content]
    return parse_labels(content, where)


def _in_order(content: dict[Any, Any], where: str) -> list[Any]:
    """Return the values of {index: ...} or the keys of {name: index}, ordered by index."""
    keys, values = list(content), list(content.values())
    for indices, items in ((_as_indices(keys), values), (_as_indices(values, text=False), keys)):
        if indices is None:
            continue
        if sorted(indices) != list(range(len(indices))):
            expected = f"each index from 0 to {len(indices) - 1} once"
            missing = next(k for k in range(len(indices)) if k not in set(indices))
            raise fail(where, expected, f"none for {missing}", "correct the file")
        return [item for _, item in sorted(zip(indices, items, strict=True), key=lambda pair: pair[0])]
    raise fail(where, "names by index, or indices by name", content, "correct it, or give --classifier_labels=FILE")


def _as_indices(values: Iterable[Any], text: bool = True) -> list[int] | None:
    """Return `values` as integers, also from text; None if one is not an integer."""
    found = []
    for value in values:
        if isinstance(value, str) and text and value.isdecimal() and len(value) <= 7:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            return None
        found.append(value)
    return found


def _entry(item: Any) -> Any:
    """Convert [WordNet id, name], in either order, to {wnid, name}; return other entries unchanged."""
    if not isinstance(item, list | tuple) or len(item) != 2 or not all(isinstance(part, str) for part in item):
        return item
    first, second = item
    if _WNID.fullmatch(second) and not _WNID.fullmatch(first):
        first, second = second, first
    return {"wnid": first, "name": second} if _WNID.fullmatch(first) else item


def _parse_lines(text: str, where: str) -> tuple[Label, ...]:
    rows = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    rows = [(number, line) for number, line in rows if line and not line.startswith("#")]
    if not rows:
        raise fail(where, "one class name per line", "none", "correct the file")
    numbered = [_NUMBERED.fullmatch(line) for _, line in rows]
    if all(numbered):
        indices = [int(match[1]) for match in numbered if match]
        if min(indices) in (0, 1) and sorted(indices) == list(range(min(indices), min(indices) + len(indices))):
            names = [(number, match[2]) for (number, _), match in zip(rows, numbered, strict=True) if match]
            if len({name for _, name in names}) == len(names):  # otherwise the number is part of the name
                rows = [row for _, row in sorted(zip(indices, names, strict=True))]
    known = [_WNID_LINE.fullmatch(line) for _, line in rows]
    entries: list[Any] = [line for _, line in rows]
    if all(known):
        words = [(match[1], match[2]) for match in known if match]
        entries = [{"wnid": wnid, "name": text.split(",")[0].strip(), "synset": text} for wnid, text in words]
    return parse_labels(entries, where, [number for number, _ in rows])


def checked_count(named: Named, num_classes: int, where: str) -> tuple[Label, ...]:
    """Return the labels of a file; raise `UserError` unless there are `num_classes` of them."""
    if len(named.labels) != num_classes:
        raise wrong_count(where, num_classes, f"{len(named.labels)} in {named.where}")
    return named.labels


def wrong_count(where: str, num_classes: int, got: str) -> UserError:
    """Return the error for a number of labels that differs from the number of classes."""
    remedy = "give the right labels with --classifier_labels=FILE"
    return fail(f"model {where}", f"{num_classes} labels, one per class", got, remedy)
