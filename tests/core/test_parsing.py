"""Errors of parsers become one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tfgradgen.core.checks import UserError
from tfgradgen.core.parsing import parsing, read_bytes


@pytest.mark.parametrize(
    "error",
    [
        KeyError("a"),
        RecursionError("x"),
        MemoryError(),
        OSError(28, "No space"),
        OverflowError("y"),
        SyntaxError("z"),
        EOFError(),
    ],
)
def test_errors_of_parsers_are_one_line(error: Exception) -> None:
    with (
        pytest.raises(UserError, match=r"^file x: expected a thing, got .+; give another\.$"),
        parsing("file x", "a thing", "give another"),
    ):
        raise error


def test_our_own_line_passes() -> None:
    with pytest.raises(UserError, match=r"^mine$"), parsing("file x", "a thing", "give another"):
        raise UserError("mine")


def test_an_error_outside_of_a_parser_passes() -> None:
    with pytest.raises(AssertionError), parsing("file x", "a thing", "give another"):
        raise AssertionError


def test_kinds_of_a_library_are_named() -> None:
    with pytest.raises(UserError, match="expected YAML"), parsing("file x", "YAML", "write it", yaml.YAMLError):
        yaml.safe_load("[" * 50 + ":")
    with pytest.raises(UserError, match="expected an archive"), parsing("file x", "an archive", "write it"):
        np.load(Path(__file__), allow_pickle=False)


def test_files_are_bounded_and_regular(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([1] * 100))
    assert read_bytes(path, 10**4) == path.read_bytes()
    for where, most in ((path, 10), (tmp_path, 10**4), (Path("/dev/zero"), 10), (tmp_path / "none", 10)):
        with pytest.raises(UserError, match="got"), parsing(f"file {where}", "text", "give another"):
            read_bytes(where, most)
