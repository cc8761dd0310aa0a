"""What is at --out and next to it, and how commands react to it."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import CTRL_C, FULL_DISK, SMALL, refused, stop_after
from tfgradgen.cli import output
from tfgradgen.cli.commands import main
from tfgradgen.cli.compare_options import parse_compare
from tfgradgen.cli.early import check_compare, check_tune
from tfgradgen.cli.options import SampleOptions, parse_sample
from tfgradgen.cli.output import check_folders
from tfgradgen.cli.tune_options import parse_tune
from tfgradgen.core.checks import UserError
from tfgradgen.core.text import as_python
from tfgradgen.io.folders import INSIDE, OURS, RECORD, atomic_dir, check_resumable, partial_path
from tfgradgen.io.store import CHECKPOINT

pytestmark = pytest.mark.usefixtures("quick_runs")

COMMAND = [*SMALL, "--kernel=mala", "--num_results=50", "--num_burnin_steps=30"]


def empty(out: Path) -> None:
    out.mkdir()


def run(out: Path) -> None:
    out.mkdir()
    for name in OURS:
        (out / name).write_text("1")


def foreign(out: Path) -> None:
    run(out)
    (out / "thesis.tex").write_text("mine")


def half(out: Path) -> None:
    """A run that was killed while its files were moved into a folder that cannot be replaced."""
    run(out)
    (out / RECORD).unlink()


def file(out: Path) -> None:
    out.write_text("mine")


def link(out: Path) -> None:
    empty(out.with_name("elsewhere"))
    out.symlink_to("elsewhere")


def link_to_run(out: Path) -> None:
    run(out.with_name("elsewhere"))
    out.symlink_to("elsewhere")


def dangling(out: Path) -> None:
    out.symlink_to("nowhere")


def circle(out: Path) -> None:
    out.symlink_to(out.name)


def absent(out: Path) -> None:
    pass


def begun(out: Path) -> None:
    partial_path(out).mkdir()
    (partial_path(out) / CHECKPOINT).write_text("1")


def locked(out: Path) -> None:
    partial_path(out).mkdir()
    (partial_path(out) / "lock").write_text("")


def not_ours(out: Path) -> None:
    begun(out)
    (partial_path(out) / "thesis.tex").write_text("mine")


State = Callable[[Path], None]
NEW, OVER, ON = [], ["overwrite"], ["resume"]
FREE = ""
EXISTS, NONE, HOLDS = "which exists; choose another --out or add --overwrite", "which is not one", "which also holds thesis.tex"
UNDER_WAY = "an interrupted or active run; continue it with --resume"
TABLE: list[tuple[State, State, list[str], str]] = [
    *((state, absent, flags, FREE) for state in (absent, empty, link) for flags in (NEW, OVER, ON)),
    *((state, absent, NEW, EXISTS) for state in (run, foreign, half, link_to_run)),
    *((state, absent, OVER, FREE) for state in (run, half, link_to_run)),
    *((state, absent, ON, FREE) for state in (run, link_to_run)),
    (half, absent, ON, f"which has no {RECORD}; start over with --overwrite"),
    (foreign, absent, OVER, HOLDS),
    *((file, absent, flags, NONE) for flags in (NEW, OVER, ON)),
    *((state, absent, flags, "a link to something else") for state in (dangling, circle) for flags in (NEW, OVER, ON)),
    *((state, begun, NEW, UNDER_WAY) for state in (absent, empty, link)),
    *((state, begun, flags, FREE) for state in (absent, empty, run, half, link, link_to_run) for flags in (OVER, ON)),
    *((absent, locked, flags, UNDER_WAY if flags == NEW else FREE) for flags in (NEW, OVER, ON)),
    *((absent, not_ours, flags, UNDER_WAY if flags == NEW else HOLDS) for flags in (NEW, OVER, ON)),
    (foreign, begun, OVER, HOLDS),
]


def options_of(out: str | Path, flags: list[str], label: Any = "goldfish") -> SampleOptions:
    return parse_sample({"label": label, "out": str(out)} | dict.fromkeys(flags, True))


@pytest.mark.parametrize("number", range(len(TABLE)))
@pytest.mark.parametrize("spelling", ["{}", "{}/", "./{}", "{}/../{}", "absolute"])
def test_every_state_is_welcome_or_refused_in_one_line(
    number: int, spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_out, beside, flags, text = TABLE[number]
    monkeypatch.chdir(tmp_path)
    if spelling == "{}/../{}":  # a path through itself needs a folder that exists
        (tmp_path / "by").mkdir()
        spelling = "by/../{}"
    out = str(tmp_path / "run") if spelling == "absolute" else spelling.format("run")
    at_out(tmp_path / "run")
    beside(tmp_path / "run")
    before = sorted(map(str, tmp_path.rglob("*")))
    options = options_of(out, flags)
    assert options.out is not None
    if text:
        with pytest.raises(UserError, match=as_python(text)):
            check_folders(options, [options.out])
    else:
        has_run = at_out in (run, link_to_run) or beside is begun
        assert check_folders(options, [options.out]) == has_run
    assert sorted(map(str, tmp_path.rglob("*"))) == before, "a check leaves nothing behind"


def test_what_a_batch_left_is_welcome_where_the_flags_go_on_with_it_or_replace_it(tmp_path: Path) -> None:
    folders = [tmp_path / "goldfish", tmp_path / "alp"]
    begun(tmp_path / output.PLACE)
    for flags in (OVER, ON):
        check_folders(options_of(tmp_path, flags, "goldfish,alp"), folders)
    with pytest.raises(UserError, match=as_python(UNDER_WAY)):
        check_folders(options_of(tmp_path, NEW, "goldfish,alp"), folders)
    check_folders(options_of(folders[0], NEW), folders[:1])


def test_a_folder_on_which_something_is_mounted_is_written_into(
    toy_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be neither renamed nor replaced, and nothing must be left next to it."""
    main([*COMMAND, *toy_flags, "--out=whole"])
    mount = tmp_path / "mount"
    (mount / "lost+found").mkdir(parents=True)
    real_rename, real_ismount = Path.rename, os.path.ismount

    def rename(path: Path, target: Any) -> Path:
        if mount in (path, Path(target)):
            raise OSError(errno.EBUSY, "Device or resource busy")
        return real_rename(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(output.os.path, "ismount", lambda path: Path(path).absolute() == mount or real_ismount(path))
    command = [*COMMAND, *toy_flags, "--out=mount"]
    with pytest.MonkeyPatch.context() as patch:
        stop_after(2, CTRL_C, patch)
        capsys.readouterr()
        assert f"what was drawn is in mount/{INSIDE}" in refused(command, capsys, 130)
    main([*command, "--resume"])
    names = {"report.html", "film.png", "grid.png", "plots.png", "samples.npz", RECORD, CHECKPOINT}
    assert {path.name for path in mount.iterdir()} == names | {"lost+found"}
    assert (mount / "samples.npz").read_bytes() == (tmp_path / "whole/samples.npz").read_bytes()
    capsys.readouterr()
    assert EXISTS in refused(command, capsys)
    main([*command, "--overwrite", "--seed=1"])
    assert json.loads((mount / RECORD).read_text())["seed"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mount", "whole"]


def test_a_folder_that_turns_out_to_be_mounted_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bind mount of the same file system looks like any folder until it is renamed."""
    out, real_rename = tmp_path / "run", Path.rename
    run(out)

    def rename(path: Path, target: Any) -> Path:
        if out in (path, Path(target)):
            raise OSError(errno.EBUSY, "Device or resource busy")
        return real_rename(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with atomic_dir(out, overwrite=True) as beside:
        (beside / RECORD).write_text("2")
        (beside / "samples.npz").write_text("2")
    assert {path.name: path.read_text() for path in out.iterdir()} == {RECORD: "2", "samples.npz": "2"}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("flags", [[], ["--overwrite=True"]])
@pytest.mark.parametrize("error", [CTRL_C, FULL_DISK, OSError(errno.EDQUOT, "Disk quota exceeded")], ids=repr)
def test_what_was_stopped_in_an_empty_folder_goes_on(
    error: BaseException, flags: list[str], toy_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    command = [*COMMAND, *toy_flags, "--out=run"]
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, error, patch)
        line = refused([*command, *flags], capsys, 130 if error is CTRL_C else 2)
    again = " ".join(["python -m tfgradgen", *command, *flags, "--resume"])
    assert line.endswith(again), "the command that is named, whole"
    main([*command, *flags, "--resume"])
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert (tmp_path / "run" / RECORD).exists()


def test_a_folder_that_is_replaced_comes_back_whatever_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real_rename = tmp_path / "run", Path.rename
    run(out)

    def rename(path: Path, target: Any) -> Path:
        if Path(target) == out and not path.name.endswith(".old"):
            raise KeyboardInterrupt
        return real_rename(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt), atomic_dir(out, overwrite=True) as beside:
        (beside / RECORD).write_text("2")
    assert (out / RECORD).read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("what", ["compare", "tune"])
def test_comparisons_and_searches_take_an_empty_folder_and_what_a_kill_left(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    marker = output.COMPARISON if what == "compare" else output.SEARCH

    def check(*flags: str) -> None:
        given = {"out": "out"} | dict.fromkeys(flags, True)
        if what == "compare":
            check_compare(parse_compare({"labels": "goldfish", **given}))
        else:
            check_tune(parse_tune({"label": "goldfish", **given}))

    out = tmp_path / "out"
    check()
    out.mkdir()
    check()
    (out / "lock").write_text("")
    check()
    check("resume")
    assert not output.is_resumed(out, True, "it", *marker)
    assert "--resume found nothing to go on with in" in capsys.readouterr().err
    (out / marker[0]).mkdir()
    check("resume")
    assert output.is_resumed(out, True, "it", *marker)
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="which exists; continue it with resume"):
        check()
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=HOLDS):
        check("resume")
    shutil.rmtree(out)
    out.write_text("mine")
    for flags in ((), ("resume",)):
        with pytest.raises(UserError, match=NONE):
            check(*flags)
    with pytest.raises(UserError, match="can be written"):
        check_resumable(Path("/proc/tfgradgen/out"), False, "a comparison", *marker)
