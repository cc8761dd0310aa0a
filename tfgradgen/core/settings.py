"""One declaration for each setting, as metadata of a dataclass field: its default, its range, its help, and where it applies.

    num_leapfrog_steps: int = whole(3, low=1, high=1000, help="gradients in one transition", search=Search(1, 12, log=True))

The checks of the class, the flag, its line of help and the range of a search all come from it.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, NamedTuple, TypeAlias

from tfgradgen.core.checks import check_choice, check_int, check_real

SettingKind: TypeAlias = Literal["real", "whole", "choice", "switch", "text", "path", "value"]
KEY = "setting"  # of a field's metadata


class Search(NamedTuple):
    """Where `tune` looks: low..high, on a log scale with `log`; with `relative` the two are times the sampler's default."""

    low: float
    high: float
    log: bool = False
    relative: bool = False


@dataclass(frozen=True)
class Setting:
    """What a field says of its value.

    help: what the value does, a phrase.
    kind: 'real', 'whole', 'choice', 'switch', 'text', 'path' or 'value', which is a number, several, or text.
    low, high: bounds of a number; a whole number can be either, a real one neither, but for low where `is_low_in`.
    choices: the values of a choice.
    search: the range of a search, None where none varies it; a choice is searched among all its values where `is_searched`.
    held: where a compiled graph holds the value: 'graph' (built in: another value is another graph), 'step' (the step size),
      'adaptation' (a tensor that the adaptation reads) or 'results' (a tensor in the kernel's results).
    shown: what help shows where there is no default, 'N' for example. is_told: whether `help` says the bounds itself.
    is_text: whether a user's word is taken as it is typed, even where it looks like a number.
    flag: the flag's name where it is not the field's.
    """

    help: str
    kind: SettingKind
    low: float = 0.0
    high: float | None = None
    is_low_in: bool = False
    choices: tuple[Any, ...] = ()
    search: Search | None = None
    is_searched: bool = False
    held: str = "graph"
    shown: str = ""
    is_told: bool = False
    is_text: bool = False
    flag: str = ""

    def parsed(self, name: str, value: Any) -> Any:
        """As `check`, of what a user typed: the words true and false stand for the two, in errors too."""
        if True not in self.choices:
            return self.check(name, value)
        known = {str(choice).lower() if isinstance(choice, bool) else choice: choice for choice in self.choices}
        word = str(value).lower() if isinstance(value, bool | str) and str(value).lower() in ("true", "false") else value
        return known[check_choice(name, word, known)]

    def check(self, name: str, value: Any) -> Any:
        """Returns `value` in its own type, or raises the `UserError` of `core.checks`."""
        if self.kind == "real":
            high = float("inf") if self.high is None else self.high
            return check_real(name, value, self.low, high, self.is_low_in)
        if self.kind == "whole":
            return check_int(name, value, int(self.low), None if self.high is None else int(self.high))
        if self.kind in ("choice", "switch"):
            return check_choice(name, value, self.choices)
        return value

    @property
    def bounds(self) -> str:
        """The values that it can have, in words; '' where there is no bound."""
        if self.kind == "whole":
            return f"at least {self.low:g}" if self.high is None else f"{self.low:g}..{_number(self.high)}"
        if self.kind == "real":
            start = f"at least {self.low:g}" if self.is_low_in else f"above {self.low:g}"
            return start if self.high is None else f"{start}, below {self.high:g}"
        return " or ".join(str(choice).lower() for choice in self.choices) if self.kind == "choice" else ""


def _number(high: float) -> str:
    return f"2**{int(high).bit_length()} - 1" if high > 2**32 else str(int(high))


def _of(kind: SettingKind, default: Any, given: Mapping[str, Any]) -> Any:
    metadata = {KEY: Setting(kind=kind, **given)}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def real(default: Any = MISSING, **given: Any) -> Any:
    """A field that is a number; see `Setting` for what can be given."""
    return _of("real", default, given)


def whole(default: Any = MISSING, **given: Any) -> Any:
    """A field that is an integer."""
    return _of("whole", default, given)


def choice(default: Any = MISSING, **given: Any) -> Any:
    """A field that is one of `choices`."""
    return _of("choice", default, given)


def switch(**given: Any) -> Any:
    """A field that is off unless its flag is given."""
    return _of("switch", False, {"choices": (True, False)} | given)


def path(default: Any = MISSING, **given: Any) -> Any:
    """A field that is a path; text, as the user types it."""
    return _of("path", default, {"is_text": True} | given)


def text(default: Any = MISSING, **given: Any) -> Any:
    """A field that is taken as the user types it; its own command reads it."""
    return _of("text", default, {"is_text": True} | given)


def value(default: Any = MISSING, **given: Any) -> Any:
    """A field whose own command reads it: a number, several, or text."""
    return _of("value", default, given)


def again(kind: Any, name: str, default: Any) -> Any:
    """The field `name` that the dataclass `kind` declares, with another default: that of a class which inherits it."""
    return field(default=default, metadata={KEY: settings_of(kind)[name]})


def settings_of(kind: Any) -> dict[str, Setting]:
    """The declared settings of a dataclass (or of an instance of one), by field."""
    return {each.name: each.metadata[KEY] for each in fields(kind) if KEY in each.metadata}


def check_settings(record: Any) -> None:
    """Stores every declared field of the frozen `record` in its own type: numbers of NumPy become Python's, which JSON has.

    Raises:
      UserError: a value is out of its range.
    """
    for name, setting in settings_of(record).items():
        object.__setattr__(record, name, setting.check(name, getattr(record, name)))
