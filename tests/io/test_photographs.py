"""Photographs of classes in a folder or a .tar, which may be hostile."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfgradgen.core.checks import UserError
from tfgradgen.io import photographs as module
from tfgradgen.io.photographs import PhotographFiles


def png(level: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (level, level, level)).save(stream, "PNG")
    return stream.getvalue()


NAMES = {"train/ant/b.png": 1, "train/ant/a.PNG": 2, "val/ant/c.png": 3, "val/bee/d.png": 4}


def folder_of(path: Path) -> Path:
    for name, level in NAMES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(png(level))
    (path / "train/ant/notes.txt").write_text("no image")
    return path


def tar_of(path: Path, names: dict[str, int]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, level in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(png(level))
            archive.addfile(info, io.BytesIO(png(level)))
    return path


@pytest.mark.parametrize("kind", ["folder", "tar", "tar with a folder around"])
def test_a_class_has_the_photographs_of_all_parts(kind: str, tmp_path: Path) -> None:
    top = "photos/" if "around" in kind else ""
    place = (
        folder_of(tmp_path / "x") if kind == "folder" else tar_of(tmp_path / "x.tar", {top + k: v for k, v in NAMES.items()})
    )
    files = PhotographFiles(place)
    assert files.of_class("ant") == ["train/ant/a.PNG", "train/ant/b.png", "val/ant/c.png"]
    assert files.of_class("wasp") == files.of_class("..") == files.of_class("train/ant") == []
    assert files.every() == sorted(NAMES)
    assert (files.has_part("val"), files.has_part("test")) == (True, False)
    found = list(files.read(files.of_class("ant"), 2, 3))
    assert [image.shape for image in found] == [(3, 2, 3)] * 3
    assert [int(image.flat[0]) for image in found] == [2, 1, 3]


def test_hostile_archives_name_no_file_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(9))
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            link = tarfile.TarInfo(f"ant/{int(kind)}.png")
            link.type, link.linkname = kind, str(secret)
            archive.addfile(link)
        info = tarfile.TarInfo("../../ant/up.png")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    files = PhotographFiles(tmp_path / "x.tar")
    assert files.of_class("ant") == []
    with pytest.raises(UserError, match=r"image \S*up\.png: expected an image that can be read"):
        list(files.read(files.every(), 2, 2))
    (tmp_path / "text.tar").write_text("no archive")
    with pytest.raises(UserError, match=r"photographs .*text\.tar: expected a \.tar of photographs, got "):
        PhotographFiles(tmp_path / "text.tar")
    with pytest.raises(UserError, match=r"photographs: expected a folder or \.tar, got "):
        PhotographFiles(tmp_path / "nowhere")
    monkeypatch.setattr(module, "MAX_LISTED", 3)
    with pytest.raises(UserError, match="more than 3 files"):
        PhotographFiles(tar_of(tmp_path / "many.tar", NAMES))
    with pytest.raises(UserError, match="at most 3 files"):
        PhotographFiles(folder_of(tmp_path / "many")).every()


def test_a_photograph_that_is_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE", 10)
    for place in (folder_of(tmp_path / "x"), tar_of(tmp_path / "x.tar", NAMES)):
        with pytest.raises(UserError, match=r"image \S*val/bee/d\.png: .*more than 10 bytes"):
            list(PhotographFiles(place).read(["val/bee/d.png"], 2, 2))


def test_order_and_size_of_what_is_read(tmp_path: Path) -> None:
    files = PhotographFiles(tar_of(tmp_path / "x.tar", NAMES))
    np.testing.assert_array_equal([image.max() for image in files.read(["val/bee/d.png", "train/ant/b.png"], 4, 4)], [4, 1])
