"""Flags from declared settings: which flags a command takes, how their values are parsed, and their help."""

import difflib
import textwrap
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.config import REMOVED
from tfgradgen.core.files import path_of
from tfgradgen.core.settings import KEY, Setting
from tfgradgen.core.text import NAME_LENGTH, printable, value_text

WIDTH, COLUMN = 100, 30  # characters: width of the help, and column where descriptions start
RENAMED = {"trust": "allow_unknown_ops"}  # old name of a flag -> new name
_PLACEHOLDERS = {"real": "X", "whole": "N", "path": "PATH"}


class Flag(NamedTuple):
    """A flag of a command.

    Attributes:
      setting: Its declaration.
      default: Its value if it is not given; None if there is none.
    """

    setting: Setting
    default: Any = None


@dataclass(frozen=True)
class Group:
    """A part of a command's help.

    Attributes:
      title: The title above the flags.
      flags: Flags by name.
      note: Text below the flags; may be ''.
    """

    title: str
    flags: Mapping[str, Flag]
    note: str = ""


def flags_of(record: Any) -> dict[str, Flag]:
    """Return the flags that a dataclass declares, by name.

    Args:
      record: A dataclass, whose defaults are those of its fields, or an instance, whose values are the defaults.
    """
    found = {}
    for each in fields(record):
        setting = each.metadata.get(KEY)
        if setting is not None:
            default = each.default if isinstance(record, type) else getattr(record, each.name)
            found[setting.flag or each.name] = Flag(setting, None if default is MISSING else default)
    return found


def read_flags(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return values for the declared fields of `kind`, from flags or defaults. Fields with neither are left out.

    Args:
      kind: A dataclass.
      given: Values by flag; these are parsed and checked.

    Raises:
      UserError: A value is invalid.
    """
    values = {}
    for each in fields(kind):
        setting = each.metadata.get(KEY)
        if setting is None:
            continue
        flag = setting.flag or each.name
        if flag in given:
            parse_fn = parse_path if setting.kind == "path" else setting.parsed
            values[each.name] = parse_fn(flag, given[flag])
        elif each.default is not MISSING:
            values[each.name] = each.default
    return values


def parse_path(flag: str, value: Any) -> Path:
    """Return the value of a flag as a path. A number is taken as a name.

    Raises:
      UserError: The value cannot be a path.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return path_of(flag, str(value) if is_number else value)


def parse_words(flag: str, value: Any, expected: str, example: str) -> tuple[str, ...]:
    """Return the words, at least one, of a list such as a,b, which Fire may have parsed already.

    Args:
      flag: Name of the flag.
      value: Its value.
      expected: What the value must be, for errors.
      example: A valid value, for errors.

    Raises:
      UserError: The value is not a list of words.
    """
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not items:
        raise fail(flag, expected, value_text(value), f"give --{flag}={example}, for example")
    return tuple(str(item).strip() for item in items)


def check_known(kind: str, given: str, known: Collection[str], where: str) -> None:
    """Check that `given` is one of `known`.

    Args:
      kind: What the names stand for, such as 'command'.
      given: A name.
      known: All names of that kind.
      where: The command line that lists them.

    Raises:
      UserError: It is not one of them; the message is one short line.
    """
    if given not in known:
        bare = {name.strip("-"): name for name in known}
        near = difflib.get_close_matches(given[:NAME_LENGTH].strip("-").lower(), bare, n=1)
        asked = f"did you mean {bare[near[0]]}? " if near else ""
        raise UserError(f"unknown {kind} {printable(given)}; {asked}all {kind}s: {where}")


def check_flags(command: str, flags: Iterable[str], known: Collection[str]) -> None:
    """Raise `UserError` for the first flag that `command` does not have; the message names the most similar known flag."""
    named = [f"--{name}" for name in known]
    for flag in flags:
        if flag in RENAMED and RENAMED[flag] in known:
            raise fail("flags", f"--{RENAMED[flag]}", f"--{flag}", f"--{flag} is now --{RENAMED[flag]}")
        if flag in REMOVED:
            raise fail("flags", "a flag of this version", f"--{flag}", REMOVED[flag])
        check_known("flag", f"--{flag}", named, f"python -m tfgradgen {command} --help")


def shown_groups(groups: Iterable[Group]) -> list[str]:
    """Return the lines of the help: the flags of each group below its title, with defaults, descriptions and bounds."""
    lines = []
    for group in groups:
        if not group.flags and not group.note:
            continue
        lines += ["", group.title]
        for name, flag in group.flags.items():
            lines += _shown_flag(name, flag)
        lines += textwrap.wrap(group.note, WIDTH, initial_indent="  ", subsequent_indent="  ")
    return lines


def _shown_flag(name: str, flag: Flag) -> list[str]:
    setting, default = flag
    value = (setting.shown or _PLACEHOLDERS.get(setting.kind, "TEXT")) if default is None else _shown_value(default)
    head = f"  --{name}" if setting.kind == "switch" else f"  --{name}={value}"
    bounds = "" if setting.states_bounds or not setting.bounds else f" ({setting.bounds})"
    body = textwrap.wrap(setting.help + bounds, WIDTH - COLUMN, break_on_hyphens=False)
    if len(head) + 2 > COLUMN:
        return [head, *(" " * COLUMN + line for line in body)]
    return [head.ljust(COLUMN) + body[0], *(" " * COLUMN + line for line in body[1:])]


def _shown_value(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(map(_shown_value, default))
    return str(default).lower() if isinstance(default, bool) else f"{default:g}" if isinstance(default, float) else str(default)
