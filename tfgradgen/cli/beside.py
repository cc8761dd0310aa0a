"""The folder of an export: its versions, and the files next to them, which the user may edit."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.files import write_text
from tfgradgen.core.parsing import parsing, read_json
from tfgradgen.io.folders import LOCK, LOST_AND_FOUND, not_written
from tfgradgen.serving.deployment_files import TEMPLATES

MODEL_FILE = "saved_model.pb"
RECORD, CONFIG = "export.json", "models.config"  # of a version, and next to the versions
NEW = ".new"  # ends the name of a file of ours, if the user's is kept


def check_base(base: Path) -> None:
    """Raise `UserError` unless `base` is missing, empty or the folder of an earlier export. Changes nothing."""
    remedy = "choose another --out (nothing was changed)"
    real = Path(os.path.realpath(base))
    for folder in (real, *real.parents):
        if os.path.isfile(folder / MODEL_FILE):
            got = "which is a model or a version of one" if folder == real else f"which is in the model {folder}"
            raise fail("out", "a folder for the versions of the model", f"{base}, {got}", remedy)
    try:
        if not os.path.isdir(base) or any(True for _ in _records(base)):
            return
        # A process that was killed early leaves only hidden folders and its lock.
        names = {path.name for path in base.iterdir() if not path.name.startswith(".")} - {LOCK, LOST_AND_FOUND}
    except OSError as error:
        raise not_written(base, error) from error
    own = {path.stem for path in TEMPLATES.glob("*.in")}
    foreign = sorted(name for name in names - own if name.removesuffix(NEW) not in own and not name.isdecimal())
    if names and (foreign or CONFIG not in names):
        got = f"which holds {foreign[0]}" if foreign else f"which has no {CONFIG}"
        raise fail("out", "a new folder, or that of an earlier export", f"{base}, {got}", remedy)


def digests(files: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 of each text, by file name, as the record of a version keeps them."""
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}


def written_before(base: Path) -> set[tuple[str, str]]:
    """Return the name and the SHA-256 of each file that earlier exports wrote next to the versions in `base`."""
    return {entry for path in _records(base) for entry in _digests_in(path)}


def _digests_in(record: Path) -> Iterator[tuple[str, str]]:
    """Yield what `digests` left in a record; nothing if it is damaged, or of a version of this program that kept none."""
    with suppress(UserError), parsing("export", RECORD, "export again"):
        beside: Any = read_json(record)["beside"]
        yield from [(str(name), str(digest)) for name, digest in beside.items()]


def write_beside(base: Path, files: Mapping[str, str], ours: set[tuple[str, str]] | None = None) -> list[str]:
    """Write `files` into `base`, except over files that differ from them and that the user may have edited.

    Args:
      base: An existing folder.
      files: Texts by file name.
      ours: Names and SHA-256 of files that are replaced, since nobody has edited them.

    Returns:
      The names of the files that were kept; their new texts are in NAME.new.

    Raises:
      UserError: A file cannot be written.
    """
    kept = []
    for name, text in files.items():
        path = base / name
        try:
            if os.path.lexists(path) and not _is_replaceable(path, text.encode(), ours or set()):
                kept.append(name)
                path = base / f"{name}{NEW}"
            write_text(path, text)
        except OSError as error:
            raise not_written(path, error, "the version itself is complete") from error
    return kept


def _is_replaceable(path: Path, content: bytes, ours: set[tuple[str, str]]) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    found = path.read_bytes()
    return found == content or (path.name, hashlib.sha256(found).hexdigest()) in ours


def _records(base: Path) -> Iterator[Path]:
    """Yield the records of the versions in `base`."""
    if os.path.isdir(base):
        for folder in base.iterdir():
            if folder.name.isdecimal() and os.path.isfile(folder / RECORD):
                yield folder / RECORD
