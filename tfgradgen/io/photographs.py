"""Photographs of classes in a folder or a .tar, both with a folder per class. The files may come from outside."""

import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from tfgradgen.core.checks import fail
from tfgradgen.core.parsing import parsing, read_bytes
from tfgradgen.io.images import MAX_FILE, image_of, resized

ENDINGS = (".jpeg", ".jpg", ".png")
PARTS = ("train", "val")  # folders that may be between the root and the folders of the classes
MAX_LISTED = 200_000  # files in a folder or .tar, of any kind
MAX_DEPTH = 8  # nested folders
REMEDY = "give a folder or .tar with LABEL/*.jpg, train/LABEL/*.jpg or val/LABEL/*.jpg"


class PhotographFiles:
    """The photographs in a folder or .tar, by their names from its root, such as val/goldfish/1.jpg.

    If a single folder holds everything else in a .tar, it is not part of the names. Only regular files of the archive are read,
    and nothing is written to disk.

    Raises:
      UserError: `place` is neither, is damaged, or holds too many files.
    """

    def __init__(self, place: Path):
        self.place = place
        self._members: dict[str, tarfile.TarInfo] | None = None
        if place.is_dir():
            return
        check_place(place)
        with parsing(f"photographs {place}", "a .tar of photographs", REMEDY), tarfile.open(place, "r:") as archive:
            found: dict[str, tarfile.TarInfo] = {}
            for count, member in enumerate(archive):
                if count >= MAX_LISTED:
                    raise ValueError(f"more than {MAX_LISTED:,} files")
                if member.isreg() and not member.issparse() and _is_photograph(member.name):
                    found[str(PurePosixPath(member.name))] = member
        tops = {PurePosixPath(name).parts[0] if "/" in name else "" for name in found}
        top = f"{next(iter(tops))}/" if len(tops) == 1 else ""
        is_bare = top.rstrip("/") in PARTS or all(name.count("/") < 2 for name in found)
        self._members = found if is_bare else {name.removeprefix(top): member for name, member in found.items()}

    def has_part(self, part: str) -> bool:
        """Return whether the root has the folder `part`."""
        if self._members is None:
            return (self.place / part).is_dir()
        return any(name.startswith(f"{part}/") for name in self._members)

    def inside(self, folders: Sequence[str]) -> list[str]:
        """Return the sorted names of the photographs directly in these folders."""
        if self._members is not None:
            return sorted(name for name in self._members if str(PurePosixPath(name).parent) in folders)
        paths = [path for folder in folders for path in (self.place / folder).glob("*") if _is_photograph(path.name)]
        return sorted(path.relative_to(self.place).as_posix() for path in paths)

    def every(self) -> list[str]:
        """Return the sorted names of all photographs.

        Raises:
          UserError: A folder holds too many files.
        """
        if self._members is not None:
            return sorted(self._members)
        names, count = [], 0
        for root, folders, files in os.walk(self.place):
            at = Path(root).relative_to(self.place)
            count += len(files)
            if count > MAX_LISTED:
                raise fail("photographs", f"at most {MAX_LISTED:,} files", f"more in {self.place}", REMEDY)
            if len(at.parts) >= MAX_DEPTH:
                folders.clear()
            names += [(at / file).as_posix() for file in files if _is_photograph(file)]
        return sorted(names)

    def of_class(self, label: str) -> list[str]:
        """Return the names of the photographs of a class, from all parts; [] if there are none."""
        return self.inside([label, *(f"{part}/{label}" for part in PARTS)]) if is_folder_name(label) else []

    def read(self, names: Sequence[str], width: int, height: int) -> Iterator[np.ndarray]:
        """Yield the photographs `names` as uint8 RGB [height, width, 3], resized if needed.

        Raises:
          UserError: One cannot be read; it is named.
        """
        if self._members is None:
            for name in names:
                path = self.place / name
                yield resized(image_of(lambda path=path: read_bytes(path, MAX_FILE), path), width, height)  # type: ignore[misc]
            return
        with tarfile.open(self.place, "r:") as archive:
            for name in names:
                member = self._members[name]
                yield resized(image_of(lambda member=member: _content(archive, member), name), width, height)  # type: ignore[misc]


def is_folder_name(label: str) -> bool:
    """Return whether a class can have a folder of its name."""
    return label not in ("", ".", "..") and not {"/", "\\", "\0"} & set(label)


def check_place(place: Path) -> None:
    """Raise `UserError` unless `place` is a folder or a file."""
    if not place.is_dir() and not place.is_file():
        raise fail("photographs", "a folder or .tar", place, REMEDY)


def _is_photograph(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_FILE:
        raise ValueError(f"more than {MAX_FILE:,} bytes")
    stream = archive.extractfile(member)
    if stream is None:
        raise ValueError("no regular file")
    return stream.read(MAX_FILE)
