"""The flags of an earlier run, for `sample --like`: those of the command that makes it again.

A run.json may come from anyone. Its entries are checked like those of any run that is read, become flags, and are then parsed
like flags that were typed. It cannot allow operations that tfgradgen does not know, choose a folder to write, or name a model
that is not on this machine, so it cannot cause a download.
"""

import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tfgradgen.cli.arguments import evaluated
from tfgradgen.cli.options import SCHEDULE_FLAGS, kernel_flags
from tfgradgen.cli.terminal import note
from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.config import AdaptedConfig
from tfgradgen.core.parsing import parsing, read_json
from tfgradgen.core.text import as_text
from tfgradgen.io.images import image_digest
from tfgradgen.models.loading.metadata import fingerprint
from tfgradgen.models.shipped import handles_of, local_model
from tfgradgen.results.again import again
from tfgradgen.results.files import RUN_FILE, checked_record
from tfgradgen.results.record import PLACES, PROJECTION, VARIED

UNSAFE = "allow_unknown_ops"  # a flag that only the user may give
PHOTOGRAPHS = "photographs"
NAMES = {"classifier_labels": "class names", "reference_captions": "captions"}  # flags of files that a run does not choose
MAX_SHOWN = 2000  # characters of the flags that are printed
REMEDY = "give the run.json of `sample`, or its folder"
_START = ["python", "-m", "tfgradgen", "sample"]


def with_like(given: dict[str, Any], path: Path, texts: Collection[str]) -> dict[str, Any]:
    """Return the flags of the run at `path`, overridden by those that are `given`. What was taken is printed.

    Args:
      given: Flags of the command line; None stands for one that is not given.
      path: run.json, or its folder.
      texts: Names of the flags whose values are used as typed.

    Raises:
      UserError: There is no run, it is damaged, no `sample` can make it, or it names a model that is not on this machine, or a
        file of class names.
    """
    file = path / RUN_FILE if path.is_dir() else path
    with parsing("like", f"a {RUN_FILE} at {as_text(path)}", REMEDY):
        record = checked_record(read_json(file))
        made = again(record)
    if VARIED in record:
        remedy = "give the run that it started from, or another run of `sample`"
        raise fail("like", "a run of `sample`", f"a run of `vary` at {as_text(path)}", remedy)
    words = shlex.split(made.command)
    if words[:4] != _START:
        raise fail("like", f"a run that a command can make again at {path}", (made.note or made.command).rstrip("."), REMEDY)
    own = dict(word.removeprefix("--").split("=", 1) for word in words[4:])
    given = {name: value for name, value in given.items() if value is not None}
    taken = {name: value for name, value in own.items() if name not in given and not _is_moot(name, own, given)}
    if taken.pop(UNSAFE, None):
        note(f"warning  --{UNSAFE} of that run is not taken from a file: add it if you trust the authors of the models")
    if taken.pop(PHOTOGRAPHS, None):
        note(f"like     without --{PHOTOGRAPHS}: no file is read because a run names it; add it if you want it")
    if PROJECTION in record and "init" in taken:
        _check_photograph(taken["init"], record[PROJECTION].get("sha256"))
    taken |= {role: _on_this_machine(role, taken[role], record) for role in PLACES if role in taken}
    for flag, what in NAMES.items():
        if taken.get(flag, "imagenet") != "imagenet":
            remedy = f"give --{flag}=FILE, if you know the file"
            expected = f"{what} that you give with --{flag}: no file is read because a run names it"
            raise fail("like", expected, as_text(taken[flag]), remedy)
    note(f"like     {as_text(file)}: {as_text(' '.join(f'--{name}={value}' for name, value in taken.items()), MAX_SHOWN)}")
    return {name: value if name in texts else evaluated(value) for name, value in taken.items()} | given


def _on_this_machine(role: str, text: str, record: Mapping[str, Any]) -> str:
    """Return the value of the flag `role` for what a run says. If another model takes its place, that is printed.

    Raises:
      UserError: A model is not on this machine.
    """
    handles = handles_of(text) if role == "classifier" else [text]
    places = [local_model(role, handle, len(handles) == 1) for handle in handles]
    for handle, place in zip(handles, places, strict=True):
        if place is None:
            expected = f"the {role} of that run on this machine: nothing is downloaded because a run names it"
            raise fail("like", expected, as_text(handle), f"give --{role}=MODEL")
        if place != handle:
            note(f"like     the shipped {role} takes the place of {as_text(handle)}")
            if record[role].get("sha256") != fingerprint(Path(place)):
                note(f"warning  this {role} differs from that of the run (another sha256), so the draws will differ")
    return ",".join(place for place in places if place is not None)


def _check_photograph(text: str, sha256: str | None) -> None:
    """Raise `UserError` if the photograph at which the chains of a run start is not that of the run."""
    try:
        got = image_digest(Path(text).expanduser())
    except (UserError, RuntimeError):  # no such file, or the home of an unknown user
        got = None
    if got is None or got != sha256:
        what = "none" if got is None else "another one" if sha256 else "one that the run has no checksum of"
        expected = f"the photograph at which the chains of that run start in {as_text(text)}"
        raise fail("like", expected, what, "put it back, or give --init=FILE for other starts")


def _is_moot(name: str, own: dict[str, str], given: dict[str, Any]) -> bool:
    """Return whether flag `name` of the earlier run makes no sense beside the flags that are `given`."""
    of_kernel = {*kernel_flags(), *SCHEDULE_FLAGS}
    if "schedule" in given or given.get("kernel", own["kernel"]) != own["kernel"]:  # settings of another kernel
        return name in of_kernel or name in ("kernel", "init")
    if "adaptation" in given and name in {each for names in AdaptedConfig.idle.values() for each in names}:
        return True
    if name == "num_adaptation_steps" and "num_burnin_steps" in given:  # its share of the burn-in stays the default
        return True
    role = name.partition("_")[0]  # a setting of another model
    return role in ("generator", "classifier") and name != role and role in given
