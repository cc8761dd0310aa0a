"""Links, pipes and hard links in folders that tfgradgen writes: their targets are neither written nor removed."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.command import FAST, refused
from tfgradgen.cli.beside import write_beside
from tfgradgen.cli.commands import main
from tfgradgen.core.contracts import Draws
from tfgradgen.core.files import open_own, own_folder, write_text
from tfgradgen.evaluation.cell_cache import CellCache
from tfgradgen.evaluation.report.pictures import PICTURES
from tfgradgen.evaluation.scored_images import ScoredImages
from tfgradgen.io.folders import LOCK, exclusive_lock
from tfgradgen.io.images import save_png
from tfgradgen.io.store import CHECKPOINT, RunStore

pytestmark = pytest.mark.usefixtures("quick_runs")

DRAWS = Draws(*(np.zeros((1, 2, 3), np.float32) for _ in Draws._fields))
IMAGE = Image.new("RGB", (4, 4))


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Path]:
    """A file of the user, which must not change."""
    folder = tmp_path / "mine"
    folder.mkdir()
    file = folder / "thesis"
    file.write_text("mine")
    before = file.stat()
    yield file
    assert (file.read_text(), file.stat().st_mtime_ns, file.stat().st_ino) == ("mine", before.st_mtime_ns, before.st_ino)
    assert [path.name for path in folder.iterdir()] == ["thesis"]


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    (tmp_path / "ours").mkdir()
    return tmp_path / "ours"


def hold(folder: Path) -> None:
    with exclusive_lock(folder):
        pass


def draw(folder: Path) -> None:
    RunStore(folder, {"seed": 0}).append(DRAWS, {"z": np.zeros(3)}, {})


def put(folder: Path) -> None:
    empty = ScoredImages(*(np.zeros([2, 1]) for _ in ScoredImages._fields))
    CellCache(folder / "cells", {}).put("alp", "mala", empty, {})


WRITERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "lock": (LOCK, hold),
    "draws": ("z.raw", draw),
    "checkpoint": (f"{CHECKPOINT}.new", draw),
    "text": (".report.md.partial", lambda folder: write_text(folder / "report.md", "ours")),
    "image": (".grid.png.partial", lambda folder: save_png(folder / "grid.png", IMAGE)),
    "cell": ("cells/alp/.mala.npz.partial", put),
}


@pytest.mark.parametrize("link_fn", [Path.symlink_to, Path.hardlink_to], ids=["link", "second name"])
@pytest.mark.parametrize("writer", WRITERS)
def test_no_writer_follows_a_link(writer: str, link_fn: Callable[[Path, Path], None], mine: Path, ours: Path) -> None:
    name, write_fn = WRITERS[writer]
    (ours / name).parent.mkdir(parents=True, exist_ok=True)
    link_fn(ours / name, mine)
    with pytest.raises(OSError, match=rf"{Path(name).name} is a link"):
        write_fn(ours)


@pytest.mark.parametrize("writer", WRITERS)
def test_no_writer_follows_a_link_to_nothing(writer: str, mine: Path, ours: Path) -> None:
    name, write_fn = WRITERS[writer]
    (ours / name).parent.mkdir(parents=True, exist_ok=True)
    (ours / name).symlink_to(mine.parent / "new")
    with pytest.raises(OSError, match="is a link"):
        write_fn(ours)


@pytest.mark.parametrize("writer", WRITERS)
def test_no_writer_waits_at_a_pipe(writer: str, ours: Path) -> None:
    name, write_fn = WRITERS[writer]
    (ours / name).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(ours / name)
    with pytest.raises(OSError, match="not a regular file"):
        write_fn(ours)


@pytest.mark.parametrize("place", ["cells", "cells/alp"])
def test_no_cell_goes_through_a_linked_folder(place: str, mine: Path, ours: Path) -> None:
    (ours / place).parent.mkdir(parents=True, exist_ok=True)
    (ours / place).symlink_to(mine.parent, target_is_directory=True)
    with pytest.raises(OSError, match=f"{Path(place).name} is a link"):
        put(ours)


def test_finished_files_replace_a_link_and_leave_what_it_led_to(mine: Path, ours: Path) -> None:
    (ours / "report.md").symlink_to(mine)
    write_text(ours / "report.md", "ours")
    assert (ours / "report.md").read_text() == "ours"
    assert not (ours / "report.md").is_symlink()


def test_an_error_while_writing_leaves_what_was_there(ours: Path) -> None:
    write_text(ours / "report.md", "first")
    with pytest.raises(UnicodeEncodeError):
        write_text(ours / "report.md", "\ud800")
    assert [(path.name, path.read_text()) for path in ours.iterdir()] == [("report.md", "first")]


def test_an_exports_files_are_left_where_they_are_links(mine: Path, ours: Path) -> None:
    (ours / "README.md").symlink_to(mine)
    os.mkfifo(ours / "client.py")
    assert write_beside(ours, {"README.md": "mine", "client.py": "ours"}) == ["README.md", "client.py"]
    assert (ours / "client.py.new").read_text() == "ours"


def test_a_linked_folder_of_images_is_not_filled(mine: Path, ours: Path) -> None:
    (ours / f".{PICTURES}.partial").symlink_to(mine.parent, target_is_directory=True)
    with pytest.raises(OSError, match="is a link"):
        own_folder(ours / f".{PICTURES}.partial")


@pytest.mark.parametrize("name", ["lock", "z.raw", CHECKPOINT])
def test_a_run_with_a_link_in_it_is_refused_in_one_line(
    name: str, mine: Path, toy_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = tmp_path / "run.partial"
    partial.mkdir()
    (partial / name).symlink_to(mine)
    command = ["sample", "--label=goldfish", "--kernel=mala", *FAST, *toy_flags, "--out=run", "--resume"]
    said = refused(command, capsys)
    assert f"{name} is a link" in said or name == CHECKPOINT
    assert "run.partial" in said or "out: expected" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["z.raw", f"{CHECKPOINT}.new"])
def test_a_link_in_the_way_of_a_longer_run_is_refused(
    name: str, mine: Path, toy_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sample", "--label=alp", "--kernel=rejection", "--out=one", "--num_chains=2", *toy_flags]
    main([*command, "--num_results=2"])
    capsys.readouterr()
    Path("one.partial").mkdir()
    Path("one.partial", name).symlink_to(mine)
    assert f"{name} is a link" in refused([*command, "--num_results=4", "--resume"], capsys)


def test_regular_files_are_opened_as_ever(ours: Path) -> None:
    with open_own(ours / "z.raw", "w+b") as stream:
        stream.write(b"first")
    with open_own(ours / "z.raw", "r+b") as stream:
        stream.seek(0, os.SEEK_END)
        stream.write(b" second")
    with open_own(ours / "z.raw", "rb") as stream:
        assert stream.read() == b"first second"
    with pytest.raises(FileNotFoundError):
        open_own(ours / "none", "r+b")
