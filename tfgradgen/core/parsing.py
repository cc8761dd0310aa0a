"""Files from outside: any error of their parser becomes one line that names the file."""

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

# Errors that parsers of the standard library, NumPy and Pillow raise on damaged or hostile bytes, and errors from unpacking a
# value of the wrong type. ValueError covers UnicodeDecodeError and json.JSONDecodeError; RuntimeError covers RecursionError
# and NotImplementedError.
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


MAX_TEXT = 16 << 20  # bytes in a file of names or settings


@contextmanager
def parsing(what: str, expected: str, remedy: str, *further: type[Exception]) -> Iterator[None]:
    """Turn any parser error within the block into a `UserError`.

    Keep the block narrow: it should read one file and unpack its content, and do nothing else.

    Args:
      what: Names the file, such as `schedule out/best.yaml`.
      expected: What the file should contain.
      remedy: What the user can do.
      *further: Exceptions of a library besides `PARSER_ERRORS`, such as `yaml.YAMLError`.

    Raises:
      UserError: The block raised one of these. A `UserError` of the block passes unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except (*PARSER_ERRORS, *further) as error:
        raise fail(what, expected, reason(error), remedy) from error


def reason(error: BaseException) -> str:
    """Return the cause for the `got` part of a message, without errno and path; the exception's name only if it has no text."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"no entry {error}"
    if isinstance(error, MemoryError):
        return "more data than fits into memory"
    if isinstance(error, RecursionError):
        return "nesting that is too deep"
    text = str(error).strip()
    return printable(text.splitlines()[0]) if text else type(error).__name__


def read_bytes(path: Path, most: int, within: Path | None = None) -> bytes:
    """Return the content of a regular file.

    Use it within `parsing`, which turns both errors into one line.

    Args:
      path: The file.
      most: Largest size allowed, in bytes.
      within: The folder of `path` if it comes from outside; links that lead out of it are not followed.

    Raises:
      OSError: The file cannot be read, or is not a regular file.
      ValueError: The file is too large.
    """
    if within is None and not path.is_file():
        raise FileNotFoundError(2, "no such file" if not path.exists() else "not a regular file", str(path))
    with path.open("rb") if within is None else open_inside(within, os.path.abspath(path)) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise ValueError(f"more than {most:,} bytes")
    return data


def read_text(path: Path, most: int = MAX_TEXT, within: Path | None = None) -> str:
    """Return the text of a UTF-8 file, with or without a byte order mark.

    Raises:
      OSError, ValueError: As in `read_bytes`.
      UnicodeDecodeError: The file is not UTF-8.
    """
    return read_bytes(path, most, within).decode("utf-8-sig")


def read_json(path: Path, most: int = MAX_TEXT, within: Path | None = None) -> Any:
    """Return the content of a JSON file.

    Raises:
      OSError, ValueError, UnicodeDecodeError: As in `read_text`.
      json.JSONDecodeError: The file is not JSON.
      RecursionError: Its nesting is too deep.
    """
    return json.loads(read_text(path, most, within))


def whole_number(value: Any, least: int = 0) -> int:
    """Return `value`, read from a file, if it is an integer in least..2**63 - 1.

    Raises:
      TypeError: It is not an integer.
      ValueError: It is out of range.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("is not an integer")
    if not least <= value < 2**63:
        raise ValueError("is out of range")
    return value
