"""Flags from declared settings: what a command takes, how a value is read, and what help says of it."""

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

WIDTH, COLUMN = 100, 30  # of help, and of the flags in it
RENAMED = {"trust": "allow_unknown_ops"}  # old flag -> its name now
_PLACEHOLDERS = {"real": "X", "whole": "N", "path": "PATH"}


class Flag(NamedTuple):
    """setting: what is declared of it. default: its value where it is not given, None where there is none."""

    setting: Setting
    default: Any = None


@dataclass(frozen=True)
class Group:
    """A part of a command's help: flags under a title, and a sentence below them."""

    title: str
    flags: Mapping[str, Flag]
    note: str = ""


def flags_of(record: Any) -> dict[str, Flag]:
    """The flags that a dataclass declares, by name; the defaults are the values of an instance, or of the fields."""
    found = {}
    for each in fields(record):
        setting = each.metadata.get(KEY)
        if setting is not None:
            default = each.default if isinstance(record, type) else getattr(record, each.name)
            found[setting.flag or each.name] = Flag(setting, None if default is MISSING else default)
    return found


def read_flags(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The declared fields of `kind`: those among the flags `given`, read and checked, and of the others those with a default.

    Raises:
      UserError: a value cannot be used.
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
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return path_of(flag, str(value) if is_number else value)


def parse_words(flag: str, value: Any, expected: str, example: str) -> tuple[str, ...]:
    """`a,b`, or what Fire makes of it -> the words, one at least of them.

    Raises:
      UserError: it is no list of words.
    """
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not items:
        raise fail(flag, expected, value_text(value), f"give --{flag}={example}, for example")
    return tuple(str(item).strip() for item in items)


def check_known(kind: str, given: str, known: Collection[str], where: str) -> None:
    """Raises `UserError`, one short line, where `given` is none of `known`, the names of all of that `kind`; `where` lists
    them."""
    if given not in known:
        bare = {name.strip("-"): name for name in known}
        near = difflib.get_close_matches(given[:NAME_LENGTH].strip("-").lower(), bare, n=1)
        asked = f"did you mean {bare[near[0]]}? " if near else ""
        raise UserError(f"unknown {kind} {printable(given)}; {asked}all {kind}s: {where}")


def check_flags(command: str, flags: Iterable[str], known: Collection[str]) -> None:
    """Refuses flags that `command` does not have, naming the nearest that it has."""
    named = [f"--{name}" for name in known]
    for flag in flags:
        if flag in RENAMED and RENAMED[flag] in known:
            raise fail("flags", f"--{RENAMED[flag]}", f"--{flag}", f"--{flag} is now --{RENAMED[flag]}")
        if flag in REMOVED:
            raise fail("flags", "a flag of this version", f"--{flag}", REMOVED[flag])
        check_known("flag", f"--{flag}", named, f"python -m tfgradgen {command} --help")


def shown_groups(groups: Iterable[Group]) -> list[str]:
    """Lines of help: each group under its title, a flag with its default, what it does and what it can be."""
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
    bounds = "" if setting.is_told or not setting.bounds else f" ({setting.bounds})"
    body = textwrap.wrap(setting.help + bounds, WIDTH - COLUMN, break_on_hyphens=False)
    if len(head) + 2 > COLUMN:
        return [head, *(" " * COLUMN + line for line in body)]
    return [head.ljust(COLUMN) + body[0], *(" " * COLUMN + line for line in body[1:])]


def _shown_value(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(map(_shown_value, default))
    return str(default).lower() if isinstance(default, bool) else f"{default:g}" if isinstance(default, float) else str(default)
