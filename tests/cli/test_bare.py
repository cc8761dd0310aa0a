"""Systems without some standard streams, encodings, a home folder or writable folders."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import FAST_MALA, SMALL, STEPS, refused
from tfgradgen.cli import system
from tfgradgen.cli.commands import main
from tfgradgen.core.checks import UserError
from tfgradgen.io.folders import safe_filename
from tfgradgen.io.store import CHECKPOINT
from tfgradgen.models.loading.handles import resolve_handle

ROOT = Path(__file__).parents[2]
QUICK = [sys.executable, "-m", "tfgradgen"]


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which $T is the command, with `environment` and the search paths only."""
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "T": " ".join(QUICK)}
    return subprocess.run(["bash", "-c", line], capture_output=True, encoding="cp1252", env=kept | environment)


@pytest.mark.slow
def test_commands_without_tensorflow_work_on_a_bare_system(tmp_path: Path) -> None:
    """Each runs in its own process. It prints a line or has no effect, and never prints a traceback."""
    (tmp_path / "model.json").write_text('{"labels": ["größer 字", "b"]}', encoding="utf-8")
    (tmp_path / "saved_model.pb").write_bytes(b"")
    labels = f"$T labels --classifier={tmp_path}"
    bare = {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "XDG_CACHE_HOME": "/proc", "PYTHONDONTWRITEBYTECODE": "1"}
    for line, environment, code, out in (
        (labels, {"PYTHONIOENCODING": "cp1252"}, 0, "\\u5b57"),
        (labels, {"PYTHONIOENCODING": "ascii"}, 0, "gr\\xf6\\xdfer"),
        (f"{labels} 2>&-", bare, 0, "b\n"),
        (f"{labels} >&-", bare, 0, ""),
        (f"{labels} <&- >&- 2>&-", bare, 0, ""),
        (f"{labels} --nothing 2>&-", bare, 2, ""),
        (f"set -o pipefail; {labels} | head -1", {"LC_ALL": "C"}, 0, "0  "),
        (f"set -o pipefail; {labels} | true", {"LC_ALL": "C"}, 0, ""),
        (f"{labels} > /dev/full", {}, 2, ""),
        ("$T --version", bare | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}, 0, "tfgradgen 0"),
    ):
        ended = shell(line, **environment)
        assert (ended.returncode, "Traceback" in ended.stderr) == (code, False), (line, ended.stderr)
        assert out in ended.stdout, line
        assert len(ended.stderr.splitlines()) <= 1, (line, ended.stderr)
    assert "No space left on device" in shell(f"{labels} > /dev/full").stderr


@pytest.mark.slow
def test_a_run_on_a_bare_system_is_saved(toy_flags: list[str], tmp_path: Path) -> None:
    """There is no home, no user with that id, no writable folder except the run's own, no stderr, and nobody reads stdout."""
    words = " ".join(["sample", "--label=goldfish,alp", "--out=run", *FAST_MALA, *toy_flags])
    bare = {"HOME": "", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "MPLBACKEND": "", "PYTHONDONTWRITEBYTECODE": "1"}
    ended = shell(f"set -o pipefail; cd {tmp_path}; env -u HOME $T {words} 2>&- | true", **bare)
    assert ended.returncode == 0
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["alp", "goldfish", "sheet.png"]


@pytest.mark.usefixtures("quick_runs")
def test_sigterm_keeps_what_was_drawn_and_names_the_command_that_goes_on(
    toy_flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and must stay ignored
    request.addfinalizer(lambda: signal.signal(signal.SIGHUP, before))
    command = [*SMALL, "--kernel=mala", *STEPS["mala"], *toy_flags, "--out=run it", "--overwrite"]
    main([*command[:-2], "--out=whole"])
    real = os.replace
    for name, code in (("SIGTERM", 143), ("SIGHUP", 129)):
        appended = []

        def then_a_signal(source: object, target: object, name: str = name, appended: list[object] = appended) -> None:
            real(source, target)  # type: ignore[call-overload]
            appended.extend([target] * (Path(str(target)).name == CHECKPOINT))
            if len(appended) == 2:
                os.kill(os.getpid(), getattr(signal, name))

        monkeypatch.setattr("tfgradgen.io.store.os.replace", then_a_signal)
        capsys.readouterr()
        line = refused(command, capsys, code)
        assert f"ended by {name}; what was drawn is in run it.partial" in line
        again = line.split(": ")[-1]
        assert again.startswith("python -m tfgradgen sample --label=goldfish")
        assert again.count("--overwrite") == again.count("--resume") == 1
        assert "'--out=run it'" in again or "--out='run it'" in again
        command = [word for word in command if word != "--resume"] + ["--resume"]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    monkeypatch.undo()
    os.chdir(tmp_path)
    main(subprocess.run(["bash", "-c", f"printf '%s\\n' {again}"], capture_output=True, text=True).stdout.split("\n")[3:-1])
    assert (tmp_path / "run it/samples.npz").read_bytes() == (tmp_path / "whole/samples.npz").read_bytes()


def test_a_user_without_a_home_is_told_which_folder_to_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nobody(number: int) -> None:
        raise KeyError(number)

    for name in ("HOME", "TFGRADGEN_CACHE_DIR", "XDG_CACHE_HOME", "KAGGLEHUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    (tmp_path / "model.tar.gz").write_bytes(b"")
    for handle, variable in (
        (str(tmp_path / "model.tar.gz"), "TFGRADGEN_CACHE_DIR"),
        ("a/b/tensorflow2/c/1", "KAGGLEHUB_CACHE"),
    ):
        with pytest.raises(UserError, match=f"got a user without one; set {variable} to a folder"):
            resolve_handle(handle)


def test_a_user_without_a_home_gets_one_in_which_nothing_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """ArviZ, which every run and `diagnose` import, raises if there is none."""
    monkeypatch.setenv("HOME", "/somewhere")
    system.prepare_home()
    assert os.environ["HOME"] == "/somewhere"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", dict().__getitem__)
    with pytest.raises(RuntimeError):
        Path.home()
    system.prepare_home()
    assert not (Path.home() / ".config").exists()
    with pytest.raises(OSError, match="Not a directory"):
        (Path.home() / ".config").mkdir(parents=True)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with system.ended_by_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_label_that_the_locale_cannot_write_is_a_file_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    assert safe_filename("größer") == "größer"
    monkeypatch.setattr("tfgradgen.io.folders.os.fsencode", lambda text: text.encode("ascii"))
    assert safe_filename("größer") == "gr_xf6_xdfer"
