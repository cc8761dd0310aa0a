"""Resolution of labels that a user types to class indices."""

import re
from collections.abc import Sequence
from typing import Any

from tfgradgen.core.checks import UserError, did_you_mean, fail
from tfgradgen.core.text import value_text
from tfgradgen.models.loading.metadata import Label

MAX_PIECES = 32  # comma-separated parts of one name or condition
OPERATORS = "&|!()*@"  # operators of conditions
OPERATOR = re.compile(f"[{OPERATORS}]")
MAX_LISTED = 24  # classes that an error lists
MAX_NEAR = 6  # classes that an error suggests for a word in their names, such as shark


def resolve_labels(labels: Sequence[Label], wanted: Any) -> list[int]:
    """Return the indices of `wanted`: a label that `find_label` knows, a list of labels, or 'all'. No index occurs twice.

    'all' excludes background classes; they can still be given by name.
    """
    if isinstance(wanted, str) and wanted.strip().lower() == "all":
        found = [k for k, label in enumerate(labels) if not label.background]
        if not found:
            raise fail("label", "a class other than background", "a classifier without one", "give one of its labels")
        return found
    if isinstance(wanted, str):
        wanted = split_names([labels], wanted)
    items = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
    if not items:
        raise fail("label", "at least one class", value_text(wanted), listing([labels]))
    return list(dict.fromkeys(_resolve_one(labels, item) for item in items))


def split_names(labelled: Sequence[Sequence[Label]], text: str) -> list[str]:
    """Split `text` at commas into names or conditions, except at commas within a name in `labelled`.

    If several names match at the same position, the longest is taken.
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
    """Normalize the spelling of `name`: lower case, and underscores for spaces and hyphens."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def named(labels: Sequence[Label], text: str) -> int | None:
    """Return the index of the label with name `text`, or with a name or WordNet id that equals it after `as_key`."""
    exact = next((k for k, label in enumerate(labels) if label.name == text), None)
    if exact is not None:
        return exact
    key = as_key(text)
    matches = (k for k, label in enumerate(labels) if key and key in (as_key(label.name), as_key(label.wnid)))
    return next(matches, None)


def find_label(labels: Sequence[Label], item: Any) -> int | None:
    """Return the index of the class with the name, WordNet id, index or synset word `item`; None if there is none.

    A name takes precedence over a word: among ImageNet's labels 'cardigan' is the jacket, not the Welsh corgi.

    Raises:
      UserError: A word belongs to several classes, which the error lists.
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
        got = f"{value_text(item)}, a word of {len(matches)} classes"
        raise fail("label", "a word that names one class", got, f"did you mean {classes}?")
    if matches:
        return matches[0]
    if isinstance(item, str):
        if not item.strip().isdecimal():
            return None
        item = int(item)
    return item if 0 <= item < len(labels) else None


def unknown_label(labelled: Sequence[Sequence[Label]], item: Any, where: str = "") -> UserError:
    """Return the error for an `item` that is in none of `labelled`; `where` gives its position in the text."""
    near, key = "", as_key(str(item))
    if isinstance(item, str) and not item.strip().isdecimal():
        words = {word: label.name for labels in labelled for label in labels for word in (as_key(label.name), *_words(label))}
        within = dict.fromkeys(name for word, name in words.items() if f"_{key}_" in f"_{word}_")
        near = f"did you mean {', '.join([*within][:MAX_NEAR])}?" if within and key else did_you_mean(key, words)
    expected = f"a class name, WordNet id or index 0..{max(map(len, labelled)) - 1}"
    return fail("label", expected, f"{value_text(item)}{where}", near or listing(labelled))


def listing(labelled: Sequence[Sequence[Label]]) -> str:
    """Return a remedy that lists the classes of several classifiers, or if they are many, says which command does."""
    names = list(dict.fromkeys(label.name for labels in labelled for label in labels if label.name and not label.background))
    if 0 < len(names) <= MAX_LISTED and sum(map(len, names)) <= MAX_LISTED * 12:
        return f"the classes: {', '.join(names)}"
    return "python -m tfgradgen labels, with the same --models or --classifier, lists the classes"


def _words(label: Label) -> list[str]:
    return [as_key(word) for word in label.synset.split(",") if word.strip()]


def _resolve_one(labels: Sequence[Label], item: Any) -> int:
    index = find_label(labels, item)
    if index is None:
        raise unknown_label([labels], item)
    return index
