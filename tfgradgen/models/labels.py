"""From what a user types to class indices."""

from collections.abc import Sequence
from typing import Any

from tfgradgen.checks import did_you_mean, fail
from tfgradgen.models.metadata import Label


def resolve_labels(labels: Sequence[Label], wanted: Any) -> list[int]:
    """Returns the indices that `wanted` names: a name, WordNet id or index, a list of them, or 'all'; no index twice.

    'all' leaves out background classes, which can be named all the same.
    """
    if isinstance(wanted, str) and wanted.strip().lower() == "all":
        found = [k for k, label in enumerate(labels) if not label.background]
        if not found:
            raise fail("label", "a class that is no background", "a classifier with none", "name one of its labels")
        return found
    if isinstance(wanted, str) and _named(labels, wanted) is None:  # a name may hold commas itself
        wanted = [part for part in wanted.split(",") if part.strip()]
    items = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
    if not items:
        raise fail("label", "at least one class", repr(wanted), "python -m tfgradgen labels lists them")
    return list(dict.fromkeys(_resolve_one(labels, item) for item in items))


def _key(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _named(labels: Sequence[Label], text: str) -> int | None:
    """The index of the label whose name or WordNet id is `text`, whatever its case, spaces or hyphens."""
    key = _key(text)
    matches = (k for k, label in enumerate(labels) if key and key in (_key(label.name), _key(label.wnid)))
    return next(matches, None)


def _resolve_one(labels: Sequence[Label], item: Any) -> int:
    last = len(labels) - 1
    expected, remedy = f"a class name, WordNet id or index 0..{last}", "python -m tfgradgen labels lists the classes"
    if isinstance(item, str) or (isinstance(item, int) and not isinstance(item, bool)):
        index = _named(labels, str(item))
        if index is not None:
            return index
    if isinstance(item, str):
        if not item.strip().isdecimal():
            near = did_you_mean(_key(item), [label.name for label in labels])
            raise fail("label", expected, repr(item), near or remedy)
        item = int(item)
    if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item <= last:
        raise fail("label", expected, repr(item), remedy)
    return item
