"""Archives from outside: complete and plain ones are unpacked; all others are refused and leave nothing behind."""

import errno
import gzip
import io
import os
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tfgradgen.core.checks import UserError
from tfgradgen.models.loading.archives import MAX_DEPTH, unpack

Member = tuple[str, bytes]
FILES: list[Member] = [("./saved_model.pb", b"graph"), ("variables/variables.index", bytes(range(256)) * 9), ("empty", b"")]


def tar_of(members: list[Member], change: Callable[[tarfile.TarInfo], None] = lambda member: None) -> bytes:
    """Return a tar of files; `change` may alter the header of each."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            change(member)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def refused(content: bytes, folder: Path, text: str, **bounds: int) -> None:
    """Check that unpacking fails in one line that contains `text`, and leaves `folder` unchanged."""
    archive = folder / "model.tar.gz"
    archive.write_bytes(content)
    with pytest.raises(UserError, match=text) as error:
        unpack(archive, folder / "out" / "model", **bounds)
    assert str(error.value).startswith(f"archive {archive}: expected ")
    assert len(str(error.value).splitlines()) == 1
    assert [path.name for path in folder.rglob("*")] == ["model.tar.gz", "out"]


@pytest.mark.parametrize("compress", [gzip.compress, bytes], ids=["tar.gz", "tar"])
def test_files_and_folders_are_unpacked(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "variables").mkdir(parents=True)
    for name, content in FILES:
        (source / name).write_bytes(content)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.add(source, ".")  # as `tar czf` writes it, folders included
    for k, content in enumerate((stream.getvalue(), tar_of(FILES))):
        archive, folder = tmp_path / f"{k}.tar.gz", tmp_path / "new" / str(k)
        archive.write_bytes(compress(content))
        unpack(archive, folder)
        found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert found == {name.removeprefix("./"): content for name, content in FILES}
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["0", "1"]


def typed(kind: bytes, target: str = "") -> Callable[[tarfile.TarInfo], None]:
    def change(member: tarfile.TarInfo) -> None:
        if member.name == "odd":
            member.type, member.linkname, member.size = kind, target, 0

    return change


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "saved_model.pb"),
        (tarfile.LNKTYPE, "saved_model.pb"),
        (tarfile.FIFOTYPE, ""),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
    ],
)
def test_links_and_devices_are_refused(kind: bytes, target: str, tmp_path: Path) -> None:
    content = tar_of([*FILES, ("odd", b""), ("odd/file", b"")], typed(kind, target))
    refused(content, tmp_path, "files and folders only, got 'odd'")


@pytest.mark.parametrize("name", ["/tmp/x", "../x", "a/../../x", "..", r"..\x", r"C:\x", "C:x", r"\\host\x", "."])
def test_names_that_lead_out_are_refused(name: str, tmp_path: Path) -> None:
    refused(tar_of([*FILES, (name, b"x")]), tmp_path, "names inside its own folder")


@pytest.mark.parametrize("name", ["saved_model.pb", "Saved_Model.pb", "variables//variables.index"])
def test_a_name_twice_is_refused(name: str, tmp_path: Path) -> None:
    refused(tar_of([*FILES, (name, b"x")]), tmp_path, "each name once")


def test_a_file_that_is_also_a_folder_is_refused(tmp_path: Path) -> None:
    refused(tar_of([*FILES, ("empty/file", b"x")]), tmp_path, "a complete tar archive")


def test_bounds_on_bytes_and_members(tmp_path: Path) -> None:
    size = sum(len(content) for _, content in FILES)
    refused(tar_of(FILES), tmp_path, f"at most {size - 1} bytes", max_bytes=size - 1)
    refused(tar_of(FILES), tmp_path, "more than 3 members", max_members=3)
    unpack(tmp_path / "model.tar.gz", tmp_path / "fits", max_bytes=size, max_members=4)


def test_folders_that_are_only_on_the_way_count(tmp_path: Path) -> None:
    """A few hundred bytes could create thousands of folders, which no bound on bytes detects."""
    branches = [(f"{k:02d}/" + "a/" * (MAX_DEPTH - 2) + "f", b"") for k in range(40)]
    refused(gzip.compress(tar_of(branches)), tmp_path, "more than 1000 members", max_members=1000)
    unpack(tmp_path / "model.tar.gz", tmp_path / "fits", max_members=40 * MAX_DEPTH)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 1900, 200_000])
def test_a_deep_name_is_refused(depth: int, tmp_path: Path) -> None:
    said = f"at most {MAX_DEPTH} nested folders, got 'a/a.*, {depth} deep"
    refused(tar_of([*FILES, ("a/" * (depth - 1) + "f", b"")]), tmp_path, said)


def test_headers_of_headers_are_refused(tmp_path: Path) -> None:
    nested = b"".join(header("long", 1, tarfile.GNUTYPE_LONGNAME) + b"x" + bytes(511) for _ in range(2000))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)  # some libraries raise the limit for the whole process
    try:
        refused(gzip.compress(nested + tar_of(FILES)), tmp_path, "an endless chain of headers")
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_takes_no_more_is_said(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(source: Any, file: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tfgradgen.models.loading.archives._copy", copy)
    (tmp_path / "model.tar").write_bytes(tar_of(FILES))
    with pytest.raises(UserError, match=rf"can be written, got {tmp_path} \({os.strerror(number)}\); free space or set"):
        unpack(tmp_path / "model.tar", tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model.tar"]
    with pytest.raises(UserError, match=r"cache of archives: expected a folder that can be written, got .*model\.tar \("):
        unpack(tmp_path / "model.tar", tmp_path / "model.tar" / "model")


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


ZEROS = gzip.compress(bytes(64 << 20), 1) * 64  # 4 GiB, as gzip members one after another


@pytest.mark.parametrize(
    ("start", "text"),
    [
        (header("saved_model.pb", 4 << 30), "4294967296 bytes"),
        (header("pax", 4 << 30, tarfile.XHDTYPE), "more bytes than it declares"),
        (header("long", 4 << 30, tarfile.GNUTYPE_LONGNAME), "more bytes than it declares"),
        (tar_of(FILES), "more bytes than it declares"),
    ],
    ids=["file", "header", "name", "end"],
)
def test_gigabytes_of_zeros_are_refused_before_they_are_unpacked(start: bytes, text: str, tmp_path: Path) -> None:
    refused(gzip.compress(start) + ZEROS, tmp_path, text)


def test_a_size_below_zero_is_refused(tmp_path: Path) -> None:
    refused(header("saved_model.pb", -512) + tar_of(FILES), tmp_path, "files and folders only")


WHOLE = gzip.compress(tar_of(FILES))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>403</html>" * 99,
        WHOLE[: len(WHOLE) // 2],
        WHOLE[:-4],
        WHOLE[:-8] + b"\0" * 8,
        tar_of(FILES)[:700],
        tar_of(FILES)[:1024],
        tar_of(FILES)[:1024] + b"x" * 512 + tar_of(FILES)[1536:],
    ],
    ids=["empty", "page", "half", "no sum", "wrong sum", "within a file", "at a header", "wrong header"],
)
def test_what_is_cut_off_or_damaged_is_refused(content: bytes, tmp_path: Path) -> None:
    refused(content, tmp_path, "a complete tar archive")


def test_many_at_once_make_one_folder(tmp_path: Path) -> None:
    archive, folder, failures = tmp_path / "model.tar.gz", tmp_path / "cache" / "model", []
    archive.write_bytes(gzip.compress(tar_of([("saved_model.pb", b"graph" * 100_000)])))
    start = threading.Barrier(4)

    def run() -> None:
        start.wait()
        try:
            unpack(archive, folder)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert (folder / "saved_model.pb").stat().st_size == 500_000
