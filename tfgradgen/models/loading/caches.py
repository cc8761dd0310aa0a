"""Folders that fetched and unpacked models are kept in, which nobody else may be able to write into."""

import os
import stat
from pathlib import Path

from tfgradgen.core.checks import fail


def cache_folder() -> Path:
    """$TFGRADGEN_CACHE_DIR, else $XDG_CACHE_HOME/tfgradgen, else ~/.cache/tfgradgen."""
    given = os.getenv("TFGRADGEN_CACHE_DIR")
    return Path(given) if given else Path(os.getenv("XDG_CACHE_HOME") or home_caches("TFGRADGEN_CACHE_DIR")) / "tfgradgen"


def home_caches(variable: str) -> Path:
    """~/.cache; raises `UserError`, which names the environment's `variable`, for a user without a home."""
    home = os.path.expanduser("~")
    if home in ("~", os.devnull):
        raise fail("cache", "a home folder, for a copy of the model", "a user without one", f"set {variable} to a folder")
    return Path(home) / ".cache"


def make_private(folder: Path) -> None:
    """Makes `folder` for this user alone where it is not there yet; raises `OSError` where that is not possible."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def check_private(folder: Path, variable: str) -> None:
    """Raises `UserError` where `folder`, which the environment's `variable` sets, is one that another user could fill.

    That is one who owns it, or whom its mode lets write. root may, and so may a group of this user alone, which systems give
    the same number as the user.
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
        raise fail(f"cache {folder}", "a folder of your own", "one of another user", f"set {variable} to another folder")
    if mode:
        remedy = f"chmod go-w it if its models are yours, or set {variable} to another folder"
        raise fail(f"cache {folder}", "a folder that only you can write", "one that others can", remedy)
