"""Declaration of settings as metadata of dataclass fields: default, range, help, and where a setting applies.

    num_leapfrog_steps: int = whole(3, low=1, high=1000, help="gradients in one transition", search=Search(1, 12, log=True))

The checks of the class, the flag, its line of help and the search range are all derived from the declaration.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, NamedTuple, TypeAlias

from tfgradgen.core.checks import check_choice, check_int, check_real

SettingKind: TypeAlias = Literal["real", "whole", "choice", "switch", "text", "path", "value"]
KEY = "setting"  # key of a field's metadata


class Search(NamedTuple):
    """The range in which `tune` searches a setting.

    Attributes:
      low: Lower end.
      high: Upper end.
      log: Whether the scale is logarithmic.
      relative: Whether the ends are multiples of the sampler's default.
    """

    low: float
    high: float
    log: bool = False
    relative: bool = False


@dataclass(frozen=True)
class Setting:
    """The declaration of one setting.

    Attributes:
      help: What the value does, a phrase.
      kind: 'real', 'whole', 'choice', 'switch', 'text', 'path' or 'value' (a number, several numbers, or text).
      low: Lower bound of a number. A whole number may equal it; a real number may only with `inclusive_low`.
      high: Upper bound of a number, None for none. A whole number may equal it; a real number may only with `inclusive_high`.
      inclusive_low: Whether the range of a real number includes `low`.
      inclusive_high: Whether it includes `high`.
      choices: The values of a choice.
      search: The range of a search; None if a search does not vary the setting.
      is_searched: Whether a search tries all values of a choice.
      held: Where a compiled graph holds the value: 'graph' (a constant: another value needs another graph), 'step' (the step
        size), 'adaptation' (a tensor that the adaptation reads) or 'results' (a tensor in the kernel's results).
      shown: What the help shows instead of a missing default, for example 'N'.
      states_bounds: Whether `help` itself states the bounds.
      is_text: Whether the user's word is taken as typed, even if it looks like a number.
      flag: Name of the flag, if it is not the field's.
    """

    help: str
    kind: SettingKind
    low: float = 0.0
    high: float | None = None
    inclusive_low: bool = False
    inclusive_high: bool = False
    choices: tuple[Any, ...] = ()
    search: Search | None = None
    is_searched: bool = False
    held: str = "graph"
    shown: str = ""
    states_bounds: bool = False
    is_text: bool = False
    flag: str = ""

    def parsed(self, name: str, value: Any) -> Any:
        """Check a value that a user typed, and return it in its own type.

        The words true and false stand for the two booleans, also in errors.
        """
        if True not in self.choices:
            return self.check(name, value)
        known = {str(choice).lower() if isinstance(choice, bool) else choice: choice for choice in self.choices}
        word = str(value).lower() if isinstance(value, bool | str) and str(value).lower() in ("true", "false") else value
        return known[check_choice(name, word, known)]

    def check(self, name: str, value: Any) -> Any:
        """Return `value` in its own type.

        Raises:
          UserError: The value is invalid (see `core.checks`).
        """
        if self.kind == "real":
            high = float("inf") if self.high is None else self.high
            return check_real(name, value, self.low, high, self.inclusive_low, self.inclusive_high)
        if self.kind == "whole":
            return check_int(name, value, int(self.low), None if self.high is None else int(self.high))
        if self.kind in ("choice", "switch"):
            return check_choice(name, value, self.choices)
        return value

    @property
    def bounds(self) -> str:
        """The valid values, in words; '' if there are no bounds."""
        if self.kind == "whole":
            return f"at least {self.low:g}" if self.high is None else f"{self.low:g}..{_number(self.high)}"
        if self.kind == "real":
            start = f"at least {self.low:g}" if self.inclusive_low else f"above {self.low:g}"
            return start if self.high is None else f"{start}, {'at most' if self.inclusive_high else 'below'} {self.high:g}"
        return " or ".join(str(choice).lower() for choice in self.choices) if self.kind == "choice" else ""


def _number(high: float) -> str:
    return f"2**{int(high).bit_length()} - 1" if high > 2**32 else str(int(high))


def _of(kind: SettingKind, default: Any, given: Mapping[str, Any]) -> Any:
    metadata = {KEY: Setting(kind=kind, **given)}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def real(default: Any = MISSING, **given: Any) -> Any:
    """Declare a field that is a number. `Setting` lists the keyword arguments."""
    return _of("real", default, given)


def whole(default: Any = MISSING, **given: Any) -> Any:
    """Declare a field that is an integer."""
    return _of("whole", default, given)


def choice(default: Any = MISSING, **given: Any) -> Any:
    """Declare a field that is one of `choices`."""
    return _of("choice", default, given)


def switch(**given: Any) -> Any:
    """Declare a field that is false unless its flag is given."""
    return _of("switch", False, {"choices": (True, False)} | given)


def path(default: Any = MISSING, **given: Any) -> Any:
    """Declare a field that is a path, as text that is taken as typed."""
    return _of("path", default, {"is_text": True} | given)


def text(default: Any = MISSING, **given: Any) -> Any:
    """Declare a field that is taken as typed and parsed by its command."""
    return _of("text", default, {"is_text": True} | given)


def value(default: Any = MISSING, **given: Any) -> Any:
    """Declare a field that is a number, several numbers, or text, and is parsed by its command."""
    return _of("value", default, given)


def again(kind: Any, name: str, default: Any) -> Any:
    """Declare the inherited field `name` of the dataclass `kind` again, with another default."""
    return field(default=default, metadata={KEY: settings_of(kind)[name]})


def settings_of(kind: Any) -> dict[str, Setting]:
    """Return the declared settings of a dataclass, or of an instance of one, by field."""
    return {each.name: each.metadata[KEY] for each in fields(kind) if KEY in each.metadata}


def check_settings(record: Any) -> None:
    """Check each declared field of the frozen `record` and store it in its own type.

    Numbers of NumPy become Python's, which JSON can represent.

    Raises:
      UserError: A value is out of its range.
    """
    for name, setting in settings_of(record).items():
        object.__setattr__(record, name, setting.check(name, getattr(record, name)))
