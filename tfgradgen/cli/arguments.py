"""Normalization of the command line before Fire reads it: each flag once, and text left unchanged.

Fire evaluates values as Python if it can. It would cut them at a `#`, and read 2026_07_20 as a number and None as no value. If
a flag is given twice, Fire takes the last one.
"""

import ast
import re
from collections.abc import Collection, Sequence
from typing import Any

from tfgradgen.core.checks import fail

_FLAG = re.compile(r"--|-[a-zA-Z]")
_NAME = re.compile(r"[a-zA-Z]\w*", re.ASCII)
_NUMBER = r"[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_NUMBERS = re.compile(rf"[(\[]?\s*{_NUMBER}(?:\s*,\s*{_NUMBER})*\s*,?\s*[)\]]?", re.ASCII)
_WORDS = {"True": True, "true": True, "False": False, "false": False}
_LONGEST_NUMBERS = 1000  # characters


def normalized(argv: Sequence[str], texts: Collection[str] = ()) -> list[str]:
    """Return `argv` with every flag spelled --name=value, which is unambiguous.

    Args:
      argv: Words of a command line.
      texts: Names of the flags that need a value.

    Raises:
      UserError: A flag is given twice (in any spelling), has an invalid name, or is one of `texts` and has no value.
    """
    words: list[str] = []
    seen: set[str] = set()
    left = list(argv)
    while left:
        word = left.pop(0)
        if not _FLAG.match(word):
            words.append(word)
            continue
        name, has_value, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if not _NAME.fullmatch(name):
            raise fail("arguments", "flags such as --seed=1", word, "write it as --flag=value")
        if name in seen:
            raise fail(name, f"--{name} once", "it more than once", "leave all but one out")
        seen.add(name)
        if not has_value:
            is_alone = not left or bool(_FLAG.match(left[0]))
            if is_alone and name in texts:
                raise fail(name, "a value", f"--{name} without one", f"write it as --{name}=VALUE")
            value = "True" if is_alone else left.pop(0)
        words.append(f"--{name}={value}")
    return words


def evaluated(text: str) -> Any:
    """Return the value of `text` if all of it is a number, a tuple of numbers or a bool; otherwise return `text` itself."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _LONGEST_NUMBERS or not _NUMBERS.fullmatch(text.strip()):
        return text
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):  # for example 007, or an unclosed bracket
        return text
