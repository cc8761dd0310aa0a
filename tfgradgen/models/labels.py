"""From what a user types to class indices."""

import re
from collections.abc import Sequence
from typing import Any

from tfgradgen.core.checks import UserError, did_you_mean, fail
from tfgradgen.core.text import value_text
from tfgradgen.models.loading.metadata import Label

MAX_PIECES = 32  # between the commas of one name or condition
OPERATORS = "&|!()*@"  # of conditions
OPERATOR = re.compile(f"[{OPERATORS}]")
MAX_NEAR = 6  # classes that an error offers for a word that is part of their names: shark


def resolve_labels(labels: Sequence[Label], wanted: Any) -> list[int]:
    """Returns the indices that `wanted` names: what `find_label` knows, a list of them, or 'all'; no index twice.

    'all' leaves out background classes, which can be named all the same.
    """
    if isinstance(wanted, str) and wanted.strip().lower() == "all":
        found = [k for k, label in enumerate(labels) if not label.background]
        if not found:
            raise fail("label", "a class that is no background", "a classifier with none", "name one of its labels")
        return found
    if isinstance(wanted, str):
        wanted = split_names([labels], wanted)
    items = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
    if not items:
        raise fail("label", "at least one class", value_text(wanted), "python -m tfgradgen labels lists them")
    return list(dict.fromkeys(_resolve_one(labels, item) for item in items))


def split_names(labelled: Sequence[Sequence[Label]], text: str) -> list[str]:
    """The names or conditions in `text` between commas; a comma within the name of one of `labelled` separates nothing.

    Where several names could begin at one place, the longest does.
    """
    known = {as_key(each) for labels in labelled for label in labels for each in (label.name, label.wnid) if "," in each}

    def is_one(part: str) -> bool:
        operands = [part] if as_key(part) in known else OPERATOR.split(part)
        return all("," not in operand or as_key(operand) in known for operand in operands)

    pieces, parts, at = text.split(","), list[str](), 0
    while at < len(pieces):
        lengths = range(min(MAX_PIECES, len(pieces) - at) if known else 1, 0, -1)
        taken = next(n for n in lengths if is_one(",".join(pieces[at : at + n])))
        parts.append(",".join(pieces[at : at + taken]))
        at += taken
    return [part for part in parts if part.strip()]


def as_key(name: str) -> str:
    """`name` without what two spellings of it may differ in: case, spaces or hyphens for underscores."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def named(labels: Sequence[Label], text: str) -> int | None:
    """The index of the label whose name is `text`, or else whose name or WordNet id is that whatever its case, spaces or
    hyphens."""
    exact = next((k for k, label in enumerate(labels) if label.name == text), None)
    if exact is not None:
        return exact
    key = as_key(text)
    matches = (k for k, label in enumerate(labels) if key and key in (as_key(label.name), as_key(label.wnid)))
    return next(matches, None)


def find_label(labels: Sequence[Label], item: Any) -> int | None:
    """The index of the class that `item` is the name, WordNet id, index, or a word of the synset of; None if there is none.

    The name goes before the word: with ImageNet's labels 'cardigan' is the jacket, though a Welsh corgi has that word too.

    Raises:
      UserError: a word of several classes, which it lists.
    """
    if isinstance(item, bool) or not isinstance(item, str | int):
        return None
    index = named(labels, str(item))
    if index is not None:
        return index
    key = as_key(str(item))
    matches = [k for k, label in enumerate(labels) if key and key in _words(label)]
    if len(matches) > 1:
        classes = ", ".join(labels[k].name for k in matches)
        raise fail("label", "a word of one class", f"{value_text(item)}, a word of {len(matches)}", f"did you mean {classes}?")
    if matches:
        return matches[0]
    if isinstance(item, str):
        if not item.strip().isdecimal():
            return None
        item = int(item)
    return item if 0 <= item < len(labels) else None


def unknown_label(labelled: Sequence[Sequence[Label]], item: Any, where: str = "") -> UserError:
    """The error of an `item` that `find_label` knows in none of `labelled`; `where` says more of where it stood."""
    near, key = "", as_key(str(item))
    if isinstance(item, str) and not item.strip().isdecimal():
        words = {word: label.name for labels in labelled for label in labels for word in (as_key(label.name), *_words(label))}
        within = dict.fromkeys(name for word, name in words.items() if f"_{key}_" in f"_{word}_")
        near = f"did you mean {', '.join([*within][:MAX_NEAR])}?" if within and key else did_you_mean(key, words)
    expected = f"a class name, WordNet id or index 0..{max(map(len, labelled)) - 1}"
    return fail("label", expected, f"{value_text(item)}{where}", near or "python -m tfgradgen labels lists the classes")


def _words(label: Label) -> list[str]:
    return [as_key(word) for word in label.synset.split(",") if word.strip()]


def _resolve_one(labels: Sequence[Label], item: Any) -> int:
    index = find_label(labels, item)
    if index is None:
        raise unknown_label([labels], item)
    return index
