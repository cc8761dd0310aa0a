"""Files from outside: whatever their parser raises becomes one line that names the file."""

import json
import os
import struct
import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.files import open_inside
from tfgradgen.core.text import printable

# What parsers of the standard library, NumPy and Pillow raise on damaged or hostile bytes, and what taking a value of the wrong
# type apart raises. ValueError has UnicodeDecodeError and json.JSONDecodeError below it; RuntimeError has RecursionError and
# NotImplementedError.
PARSER_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    EOFError,
    MemoryError,
    SyntaxError,
    tokenize.TokenError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


MAX_TEXT = 16 << 20  # bytes of a file of names or of settings


@contextmanager
def parsing(what: str, expected: str, remedy: str, *further: type[Exception]) -> Iterator[None]:
    """Turns whatever a parser raises within the block into a `UserError`.

    Keep the block narrow: the reading of one file and the taking apart of what was read, nothing of our own.

    Args:
      what: names the file, such as `schedule out/best.yaml`.
      expected: what the file should hold.
      remedy: what the user can do.
      *further: kinds of error that a library has beside `PARSER_ERRORS`, such as `yaml.YAMLError`.

    Raises:
      UserError: the block raised one of these; a `UserError` of the block passes as it is.
    """
    try:
        yield
    except UserError:
        raise
    except (*PARSER_ERRORS, *further) as error:
        raise fail(what, expected, reason(error), remedy) from error


def reason(error: BaseException) -> str:
    """What went wrong, for the `got` of an error: without errno, path or the exception's name where its text says enough."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"no entry {error}"
    if isinstance(error, MemoryError):
        return "more than fits into memory"
    if isinstance(error, RecursionError):
        return "too deep a nesting"
    text = str(error).strip()
    return printable(text.splitlines()[0]) if text else type(error).__name__


def read_bytes(path: Path, most: int, within: Path | None = None) -> bytes:
    """The bytes of a regular file of at most `most` bytes.

    Args:
      within: the folder that `path` is in, where a stranger made it: a link that leads out of it is not followed.

    Raises:
      OSError: it cannot be read. ValueError: it is larger, or no regular file; both become one line within `parsing`.
    """
    if within is None and not path.is_file():
        raise FileNotFoundError(2, "no such file" if not path.exists() else "no regular file", str(path))
    with path.open("rb") if within is None else open_inside(within, os.path.abspath(path)) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise ValueError(f"more than {most:,} bytes")
    return data


def read_text(path: Path, most: int = MAX_TEXT, within: Path | None = None) -> str:
    """The text of a file in UTF-8, with or without a byte order mark. Raises what `read_bytes` does, and UnicodeDecodeError."""
    return read_bytes(path, most, within).decode("utf-8-sig")


def read_json(path: Path, most: int = MAX_TEXT, within: Path | None = None) -> Any:
    """What a JSON file holds. Raises what `read_text` does, json.JSONDecodeError, and RecursionError where it is too deep."""
    return json.loads(read_text(path, most, within))


def whole_number(value: Any, least: int = 0) -> int:
    """`value`, of a file from outside, if it is a whole number of 64 bits; raises ValueError or TypeError otherwise."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("is no whole number")
    if not least <= value < 2**63:
        raise ValueError("is out of its range")
    return value
