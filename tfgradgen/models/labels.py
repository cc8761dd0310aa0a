"""From what a user types to class indices."""

from collections.abc import Sequence
from typing import Any

from tfgradgen.checks import did_you_mean, fail
from tfgradgen.models.metadata import Label


def resolve_labels(labels: Sequence[Label], wanted: Any) -> list[int]:
    """Returns the indices that `wanted` names: a name, WordNet id or index, a list of them, or 'all'; no index twice."""
    if isinstance(wanted, str) and wanted.strip().lower() == "all":
        return list(range(len(labels)))
    if isinstance(wanted, str):
        wanted = [part for part in wanted.split(",") if part.strip()]
    items = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
    if not items:
        raise fail("label", "at least one class", repr(wanted), "python -m tfgradgen labels lists them")
    return list(dict.fromkeys(_resolve_one(labels, item) for item in items))


def _resolve_one(labels: Sequence[Label], item: Any) -> int:
    last = len(labels) - 1
    if isinstance(item, str):
        text = item.strip()
        key = text.lower().replace(" ", "_").replace("-", "_")
        for index, label in enumerate(labels):
            if key in (label.name.lower(), label.wnid.lower() or None):
                return index
        if not text.isdigit():
            remedy = did_you_mean(key, [label.name for label in labels]) or "python -m tfgradgen labels lists the classes"
            raise fail("label", f"a class name, WordNet id or index 0..{last}", repr(item), remedy)
        item = int(text)
    if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item <= last:
        remedy = "python -m tfgradgen labels lists the classes"
        raise fail("label", f"a class name, WordNet id or index 0..{last}", repr(item), remedy)
    return item
