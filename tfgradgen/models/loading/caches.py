"""Cache folders for downloaded and unpacked models. Only the user may have write access to them."""

import os
import stat
from pathlib import Path

from tfgradgen.core.checks import fail


def cache_folder() -> Path:
    """Return $TFGRADGEN_CACHE_DIR, $XDG_CACHE_HOME/tfgradgen or ~/.cache/tfgradgen, the first that is set."""
    given = os.getenv("TFGRADGEN_CACHE_DIR")
    return Path(given) if given else Path(os.getenv("XDG_CACHE_HOME") or home_caches("TFGRADGEN_CACHE_DIR")) / "tfgradgen"


def home_caches(variable: str) -> Path:
    """Return ~/.cache; for a user without a home folder raise `UserError`, which names the environment `variable`."""
    home = os.path.expanduser("~")
    if home in ("~", os.devnull):
        raise fail("cache", "a home folder for a copy of the model", "a user without one", f"set {variable} to a folder")
    return Path(home) / ".cache"


def make_private(folder: Path) -> None:
    """Create `folder`, accessible to this user only, if it does not exist; raise `OSError` if that fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def check_private(folder: Path, variable: str) -> None:
    """Raise `UserError` if another user could write to `folder`, which the environment `variable` sets.

    Another user could if they own it or if its mode allows it. Allowed are root, and a group with the same number as the user,
    which is the user's private group.
    """
    if not hasattr(os, "geteuid") or not os.path.lexists(folder):
        return
    user = os.geteuid()
    owners = {os.lstat(folder).st_uid}
    mode = 0
    if os.path.exists(folder):
        found = os.stat(folder)
        owners.add(found.st_uid)
        is_own_group = found.st_gid == os.getegid() == user
        mode = stat.S_IMODE(found.st_mode) & (stat.S_IWOTH if is_own_group else stat.S_IWOTH | stat.S_IWGRP)
    if owners - {user, 0}:
        raise fail(f"cache {folder}", "a folder that you own", "one of another user", f"set {variable} to another folder")
    if mode:
        remedy = f"chmod go-w it if its models are yours, or set {variable} to another folder"
        raise fail(f"cache {folder}", "a folder that only you can write to", "one that others can write to", remedy)
