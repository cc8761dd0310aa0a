"""Folders that appear complete or not at all."""

from pathlib import Path

import pytest

from tfgradgen.core.checks import UserError
from tfgradgen.io.folders import LONGEST_LABEL, atomic_dir, check_partial, check_target, safe_filename


def write_run(folder: Path, text: str) -> None:
    with atomic_dir(folder, overwrite=True) as beside:
        (beside / "run.json").write_text(text)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("king_penguin", "king_penguin"),
        ("T-shirt/top, größer", "T-shirt_top_größer"),
        ("goldfish & orange", "goldfish_orange"),
        ("goldfish & !orange", "goldfish_not_orange"),
        ("goldfish | orange", "goldfish_or_orange"),
        ("goldfish & 0.5*orange@2", "goldfish_0_5_orange_2"),
        ("../\\x\0\ud800", "_x_"),
        ("x" * LONGEST_LABEL, "x" * LONGEST_LABEL),
    ],
)
def test_labels_as_file_names(name: str, file: str) -> None:
    assert safe_filename(name) == file


def test_different_conditions_are_different_files() -> None:
    texts = ["a", "!a", "a & b", "a | b", "a & !b", "!a & b", "!(a & b)", "!(a | b)", "a & (b | c)", "a & b | c", "a | !b"]
    assert len({safe_filename(text) for text in texts}) == len(texts)


def test_long_names_are_cut_and_stay_apart() -> None:
    for letter in ("x", "ß", "字"):
        files = [safe_filename(letter * 400 + end) for end in ("", "1", " & 2")]
        assert len(set(files)) == 3
        for file in files:
            assert LONGEST_LABEL - 4 <= len(file.encode()) <= LONGEST_LABEL
            assert file.startswith(letter * 30)


@pytest.mark.parametrize("parts", [("x" * 300,), ("ü" * 130,), ("x" * 300, "run")])
def test_a_name_that_no_file_can_have_is_refused(parts: tuple[str, ...], tmp_path: Path) -> None:
    for welcome in (False, True):
        with pytest.raises(UserError, match="names of at most 233 bytes"):
            check_partial(tmp_path.joinpath(*parts), welcome)


def test_the_longest_name_that_is_taken_can_be_written_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 233)
    for text in ("1", "2"):
        check_partial(target, False)
        write_run(target, text)
    assert (target / "run.json").read_text() == "2"


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
        with atomic_dir(target) as beside:
            (beside / "run.json").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (target / "run.json").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No space left"), atomic_dir(tmp_path / "run"):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_targets_that_are_refused(tmp_path: Path) -> None:
    run, file, foreign = tmp_path / "run", tmp_path / "file", tmp_path / "foreign"
    write_run(run, "1")
    file.write_text("mine")
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    for target, overwrite, text in (
        (run, False, "which exists; choose another out or add overwrite"),
        (file, True, "which is not one"),
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
        with atomic_dir(tmp_path / "run"):
            write_run(tmp_path / "run", "first")

    with pytest.raises(UserError, match="which exists"):
        race()
    assert (tmp_path / "run" / "run.json").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
