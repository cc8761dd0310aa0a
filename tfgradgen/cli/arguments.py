"""What a user types, before Fire: each flag once, and text left as it is.

Fire evaluates values as Python where it can, and so cuts them at a `#`, makes 2026_07_20 a number and None nothing; of a flag
that is given twice it takes the last.
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
    """`argv` with every flag spelt --name=value, so that it can be read in one way only.

    Args:
      texts: names of the flags that need a value.

    Raises:
      UserError: a flag is given twice (under whatever spelling), has a name that no flag can have, or has no value although
        it is one of `texts`.
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
    """A number, a tuple of numbers or a bool where `text` is one and nothing else; else `text` itself."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _LONGEST_NUMBERS or not _NUMBERS.fullmatch(text.strip()):
        return text
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):  # 007, a bracket that is not closed
        return text
