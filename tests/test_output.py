"""Folders that appear whole or not at all."""

from pathlib import Path

import pytest

from tfgradgen.checks import UserError
from tfgradgen.cli.output import check_target, new_folder


def write_run(folder: Path, text: str) -> None:
    with new_folder(folder, overwrite=True) as beside:
        (beside / "run.json").write_text(text)


def test_a_folder_appears_whole_and_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    write_run(target, "1")
    write_run(target, "2")
    assert (target / "run.json").read_text() == "2"
    assert [path.name for path in target.parent.iterdir()] == ["b"]
    assert target.stat().st_mode & 0o700 == 0o700


def test_after_an_error_the_earlier_one_stands(tmp_path: Path) -> None:
    target = tmp_path / "run"
    write_run(target, "1")

    def interrupted() -> None:
        with new_folder(target) as beside:
            (beside / "run.json").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (target / "run.json").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No space left"), new_folder(tmp_path / "run"):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_targets_that_are_refused(tmp_path: Path) -> None:
    run, file, foreign = tmp_path / "run", tmp_path / "file", tmp_path / "foreign"
    write_run(run, "1")
    file.write_text("mine")
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    for target, overwrite, text in (
        (run, False, "which exists; choose another --out or add --overwrite"),
        (file, True, "which is none"),
        (foreign, True, "which also holds thesis.tex"),
        (file / "below", False, "can be written"),
        (Path("/proc/tfgradgen"), False, "can be written"),
    ):
        with pytest.raises(UserError, match=text):
            check_target(target, overwrite)
    check_target(run, True)
    check_target(tmp_path / "new" / "deep", False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "foreign", "run"]


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    def race() -> None:
        with new_folder(tmp_path / "run"):
            write_run(tmp_path / "run", "first")

    with pytest.raises(UserError, match="which exists"):
        race()
    assert (tmp_path / "run" / "run.json").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
