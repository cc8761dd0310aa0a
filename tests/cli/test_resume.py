"""A run that is stopped in any way loses nothing and ends with the same bytes."""

import json
import shlex
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support.command import CTRL_C, FAST_MALA, FULL_DISK, SEVERAL, SMALL, STEPS, refused, stop_after, with_flags
from tests.support.forks import Forks
from tfgradgen.cli.commands import main
from tfgradgen.cli.sample import kept
from tfgradgen.core.checks import UserError
from tfgradgen.core.contracts import Draws
from tfgradgen.io.folders import exclusive_lock
from tfgradgen.io.store import CHECKPOINT, RunStore
from tfgradgen.mcmc.pool import weigh
from tfgradgen.results import result

pytestmark = pytest.mark.usefixtures("quick_runs")

# Each kind of method, and each way to stop it. test_longer stops every method after every chunk.
STOPS = [("mala", CTRL_C), ("mala", FULL_DISK), ("rejection", CTRL_C), ("smc", CTRL_C)]


@pytest.mark.parametrize(
    ("kernel", "error"), STOPS, ids=lambda value: value if isinstance(value, str) else type(value).__name__
)
def test_interrupted_and_resumed_is_bit_identical(
    kernel: str, error: BaseException, toy_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*SMALL, f"--kernel={kernel}", *STEPS[kernel], *toy_flags]
    main([*command, "--out=whole"])
    capsys.readouterr()
    for num_appends in (1, 2):  # the second time the run continues, and stops later
        with pytest.MonkeyPatch.context() as patch:
            stop_after(num_appends, error, patch)
            resume = ["--resume"] if num_appends > 1 else []
            line = refused([*command, "--out=cut", *resume], capsys, 130 if isinstance(error, KeyboardInterrupt) else 2)
        assert "cut.partial" in line
        assert "--resume goes on with it" in line
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.partial", "whole"]
    main([*command, "--out=cut", "--resume"])
    assert (tmp_path / "cut/samples.npz").read_bytes() == (tmp_path / "whole/samples.npz").read_bytes()
    cut, whole = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("cut", "whole"))
    for record in (cut, whole):
        for place in ("out", "resume"):
            del record["arguments"][place]
        del record["seconds"]
    assert cut == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "whole"]


# Where the process is killed while it draws: with draws written that no checkpoint counts, with a complete checkpoint
# next to the old one, and with the new one in place.
POINTS = {
    "draws": ("tfgradgen.io.store.zlib", "crc32", "before", 20),
    "checkpoint": ("tfgradgen.io.store.os", "replace", "before", 3),
    "done": ("tfgradgen.io.store.os", "replace", "after", 2),
}


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as forks:
        yield forks


def killed(command: list[str], code: str, folder: Path, forks: Forks) -> None:
    """Run `command` in its own process, which `code` makes kill itself."""
    assert forks.run(command, code, folder) == -signal.SIGKILL, forks.said


@pytest.mark.slow
def test_killed_while_it_draws_it_ends_with_the_same_bytes(toy_flags: list[str], tmp_path: Path, forks: Forks) -> None:
    """One run is killed at each of `POINTS` and resumed."""
    command = [*SMALL, "--kernel=mala", "--num_results=150", "--num_burnin_steps=30", *toy_flags]
    main([*command, "--out=whole"])
    seen = []
    for module, name, when, count in POINTS.values():
        code = f"""
import importlib
module = importlib.import_module({module.rpartition(".")[0]!r}).{module.rpartition(".")[2]}
real, left = module.{name}, [{count}]
def counted(*args):
    left[0] -= {name!r} != "replace" or str(args[1]).endswith({CHECKPOINT!r})
    if {when == "before"} and left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*args)
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
module.{name} = counted
"""
        killed([*command, "--out=cut", "--resume"], code, tmp_path, forks)
        partial = tmp_path / "cut.partial"
        assert not (tmp_path / "cut").exists()
        seen.append((sum(path.stat().st_size for path in partial.glob("*.raw")), (partial / f"{CHECKPOINT}.new").exists()))
    assert 0 < seen[0][0] <= seen[1][0] < seen[2][0]
    assert [beside for _, beside in seen] == [False, True, False]
    main([*command, "--out=cut", "--resume"])
    assert (tmp_path / "cut/samples.npz").read_bytes() == (tmp_path / "whole/samples.npz").read_bytes()


def test_an_interrupted_run_is_not_started_over_by_accident(interrupted: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "run.partial, an interrupted or active run" in refused(interrupted, capsys)
    with exclusive_lock(Path("run.partial")):
        assert "another one running in run.partial" in refused([*interrupted, "--resume"], capsys)
    assert Path("run.partial", CHECKPOINT).exists()


def same_draws(one: str, other: str, *labels: str) -> bool:
    return all(Path(one, name, "samples.npz").read_bytes() == Path(other, name, "samples.npz").read_bytes() for name in labels)


@pytest.mark.parametrize("error", [CTRL_C, FULL_DISK], ids=repr)
def test_an_interrupted_batch_goes_on(error: BaseException, toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = [*SEVERAL, "--out=runs", *toy_flags]
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, error, patch)
        line = refused(command, capsys, 130 if error is CTRL_C else 2)
    assert "what was drawn is in runs/labels.batch.partial, --resume goes on with it" in line
    assert [path.name for path in Path("runs").iterdir()] == ["labels.batch.partial"]
    assert "labels.batch.partial, an interrupted or active run" in refused(command, capsys)
    assert "resume: expected --seed=0 as in runs/labels.batch.partial" in refused([*command, "--resume", "--seed=1"], capsys)
    other = with_flags([*command, "--resume"], "--label=alp,king_penguin")
    assert "the labels that ran as one batch, as in runs/labels.batch.partial: goldfish,alp" in refused(other, capsys)
    started = Path("runs/labels.batch.partial", CHECKPOINT).stat().st_mtime_ns
    with pytest.MonkeyPatch.context() as patch:
        stop_after(0, error, patch)
        refused(words_of(line), capsys, 130 if error is CTRL_C else 2)
    assert Path("runs/labels.batch.partial", CHECKPOINT).stat().st_mtime_ns == started, "what was drawn is not thrown away"
    main(words_of(line))
    assert sorted(path.name for path in Path("runs").iterdir()) == ["alp", "goldfish", "sheet.png"]
    main([*SEVERAL, "--out=whole", *toy_flags])
    assert same_draws("runs", "whole", "goldfish", "alp")
    records = [json.loads(Path(out, "alp/run.json").read_text()) for out in ("runs", "whole")]
    for record in records:
        del record["seconds"], record["arguments"]["out"], record["arguments"]["resume"]
    assert records[0] == records[1]


def test_of_several_labels_the_finished_ones_are_kept(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The run is stopped while the second folder is written, and again when only remains are left to be removed."""
    command, writes = [*SEVERAL, "--out=runs", *toy_flags], []
    real_write = result.write_run

    def write(*args: Any) -> None:
        writes.append(args)
        if len(writes) == 2:
            raise CTRL_C
        real_write(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(result, "write_run", write)
        with pytest.raises(SystemExit):
            main(command)
    assert "what was drawn is in runs/labels.batch.partial" in capsys.readouterr().err
    assert sorted(path.name for path in Path("runs").iterdir()) == ["goldfish", "labels.batch.partial"]
    made = Path("runs/goldfish/run.json").stat().st_mtime_ns
    assert "resume: expected --seed=0 as in runs/labels.batch.partial" in refused([*command, "--resume", "--seed=1"], capsys)
    shutil.copytree("runs/labels.batch.partial", "left")
    main([*command, "--resume"])
    assert "kept     runs/goldfish" in capsys.readouterr().out
    shutil.copytree("left", "runs/labels.batch.partial")  # as if the process had been killed before the last step
    main([*command, "--resume"])
    assert capsys.readouterr().out.count("kept     runs/") == 2
    assert Path("runs/goldfish/run.json").stat().st_mtime_ns == made
    assert sorted(path.name for path in Path("runs").iterdir()) == ["alp", "goldfish", "sheet.png"]
    assert "found nothing" not in capsys.readouterr().err
    main([*SEVERAL, "--out=whole", "--resume", *toy_flags])
    assert "note     --resume found nothing to go on with in whole: everything is new" in capsys.readouterr().err
    assert same_draws("runs", "whole", "goldfish", "alp")


def test_a_label_that_was_sampled_by_itself_is_kept(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A finished label is kept, an interrupted one continues by itself, and the others run as a batch."""
    alone = lambda label: with_flags(SEVERAL, f"--label={label}")  # noqa: E731
    main([*alone("goldfish"), "--out=runs/goldfish", *toy_flags])
    made = Path("runs/goldfish/run.json").stat().st_mtime_ns
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, CTRL_C, patch)
        capsys.readouterr()
        refused([*alone("alp"), "--out=runs/alp", *toy_flags], capsys, 130)
    main([*alone("all"), "--out=runs", "--resume", *toy_flags])
    assert "kept     runs/goldfish" in capsys.readouterr().out
    assert Path("runs/goldfish/run.json").stat().st_mtime_ns == made
    main([*alone("alp"), "--out=alone/alp", *toy_flags])
    assert same_draws("runs", "alone", "alp")
    assert sorted(path.name for path in Path("runs").iterdir()) == ["alp", "goldfish", "king_penguin", "sheet.png"]


def words_of(line: str) -> list[str]:
    """Return the words for `main` from the command at the end of a message."""
    return shlex.split(line[line.index("python -m tfgradgen ") :])[3:]


@pytest.mark.parametrize("num_labels", [1, 3], ids=["one after another", "one batch"])
def test_the_command_that_an_interrupted_overwrite_prints_goes_on(
    num_labels: int, toy_flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfgradgen.cli.groups.MAX_CHAINS", 3 * num_labels)
    command = ["sample", "--label=goldfish,alp,king_penguin", "--out=runs", *toy_flags, *FAST_MALA]
    main(command)
    again = [*command, "--seed=1", "--overwrite"]
    with pytest.MonkeyPatch.context() as patch:
        stop_after(3 if num_labels == 1 else 1, KeyboardInterrupt(), patch)
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(again)
    line = capsys.readouterr().err.splitlines()[-1]
    made = Path("runs/goldfish/run.json").stat().st_mtime_ns
    partial = Path("runs/alp.partial" if num_labels == 1 else "runs/labels.batch.partial")
    assert (partial / CHECKPOINT).exists()
    started = (partial / CHECKPOINT).stat().st_mtime_ns
    with pytest.MonkeyPatch.context() as patch:
        stop_after(0, KeyboardInterrupt(), patch)
        with pytest.raises(SystemExit):
            main(words_of(line))
    assert (partial / CHECKPOINT).stat().st_mtime_ns == started, "what was drawn is not thrown away"
    main(words_of(line))
    assert (Path("runs/goldfish/run.json").stat().st_mtime_ns == made) == (num_labels == 1), "what is finished is kept"
    main(["sample", "--label=goldfish,alp,king_penguin", "--out=fresh", "--seed=1", *toy_flags, *FAST_MALA])
    assert same_draws("runs", "fresh", "goldfish", "alp", "king_penguin")
    assert sorted(path.name for path in Path("runs").iterdir()) == ["alp", "goldfish", "king_penguin", "sheet.png"]
    capsys.readouterr()
    assert "expected --seed=1 as in runs" in refused([*command, "--resume"], capsys), "without --overwrite nothing is replaced"


def test_resume_with_overwrite_replaces_what_cannot_be_gone_on_with(
    interrupted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("run.partial", CHECKPOINT)
    path.write_bytes(path.read_bytes()[:-1])
    assert "got a damaged one" in refused([*interrupted, "--resume"], capsys)
    main([*interrupted, "--resume", "--overwrite"])
    capsys.readouterr()
    Path("run/samples.npz").write_bytes(b"")
    Path("run/thesis.tex").write_text("mine")
    assert "which also holds thesis.tex" in refused([*interrupted, "--resume", "--overwrite"], capsys)
    Path("run/thesis.tex").unlink()
    main([*interrupted, "--resume", "--overwrite"])
    assert Path("run/samples.npz").stat().st_size > 0


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "more data than fits into memory; free memory, or start over with fewer --num_chains or --max_batch=N"),
        (tf.errors.ResourceExhaustedError(None, None, "OOM"), "more data than fits into memory"),
        (tf.errors.InternalError(None, None, "a device\nis lost"), "a device is lost; check the models and the device"),
    ],
)
def test_a_run_that_the_machine_breaks_off_goes_on(
    error: Exception, text: str, toy_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*SMALL, "--kernel=mala", *STEPS["mala"], *toy_flags]
    main([*command, "--out=whole"])
    with pytest.MonkeyPatch.context() as patch:
        stop_after(2, error, patch)
        capsys.readouterr()
        line = refused([*command, "--out=cut"], capsys)
    assert text in line
    assert "what was drawn is in cut.partial, --resume goes on with it" in line
    main(words_of(line))
    assert Path("cut/samples.npz").read_bytes() == Path("whole/samples.npz").read_bytes()


def test_a_full_stdout_is_not_taken_for_a_full_out(
    toy_flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any, file: Any = None, **options: Any) -> None:
        if file is None:
            raise FULL_DISK
        real(*given, file=file, **options)

    real, command = print, ["sample", "--label=goldfish,alp", "--out=runs", *toy_flags, *FAST_MALA]
    with monkeypatch.context() as patch:
        patch.setattr("tfgradgen.cli.terminal.print", full, raising=False)
        line = refused(command, capsys)
    assert "stdout: expected an output that can be written, got No space left on device" in line
    assert "out: " not in line.replace("stdout: ", "")
    assert sorted(path.name for path in Path("runs").iterdir()) == ["goldfish", "labels.batch.partial"]
    main(words_of(line))
    assert sorted(path.name for path in Path("runs").iterdir()) == ["alp", "goldfish", "sheet.png"]


@pytest.mark.parametrize(("count", "text"), [(0, ""), (1, "1 label is finished, --resume x"), (2, "2 labels are finished")])
def test_what_is_kept_is_said_in_words(count: int, text: str) -> None:
    assert kept([Path("a")] * count, "x").startswith(text)
    assert bool(kept([Path("a")] * count, "x")) == bool(count)


def test_draws_lie_on_disk_and_not_in_memory(tmp_path: Path) -> None:
    store = RunStore(tmp_path, {"seed": 0})
    rows = Draws(*(np.full((2, 3, 4) if name == "z" else (2, 3), k, "f4") for k, name in enumerate(Draws._fields)))
    for step in range(3):
        store.append(rows, {"num_done": np.asarray(step)}, {})
    for name, column in store.draws()._asdict().items():
        assert isinstance(column, np.memmap)
        np.testing.assert_array_equal(column, np.concatenate([getattr(rows, name)] * 3))
    assert RunStore(tmp_path, {"seed": 0}).state == {"num_done": 2}
    data = (tmp_path / CHECKPOINT).read_bytes()
    for place in range(0, len(data), 41):
        (tmp_path / CHECKPOINT).write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
        with pytest.raises(UserError, match="got a damaged one"):
            RunStore(tmp_path, {"seed": 0})


@pytest.mark.slow
def test_killed_while_it_finishes_it_ends_with_the_same_bytes(toy_flags: list[str], tmp_path: Path, forks: Forks) -> None:
    """One run is killed before its folder is written, while it is written, and when it is in place next to remains.

    So all of the folder comes from other processes: two processes give the same bytes.
    """
    command = [*SMALL, "--kernel=mala", *STEPS["mala"], *toy_flags]
    main([*command, "--out=whole"])
    cut, whole = (tmp_path / name / "samples.npz" for name in ("cut", "whole"))
    for at in ("results.result.write_run", "results.files.save_png", "cli.run.clear"):
        assert not cut.exists()
        code = f"import tfgradgen.cli.run; tfgradgen.{at} = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)"
        killed([*command, "--out=cut", "--resume"], code, tmp_path, forks)
    assert cut.read_bytes() == whole.read_bytes()
    main([*command, "--out=cut", "--resume"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "whole"], "no remains, hidden ones neither"
    assert cut.read_bytes() == whole.read_bytes()


def test_an_interrupted_overwrite_goes_on_and_then_replaces(
    toy_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*SMALL, "--kernel=mala", *STEPS["mala"], *toy_flags, "--out=run"]
    main(command)
    before = (tmp_path / "run/samples.npz").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, KeyboardInterrupt(), patch)
        capsys.readouterr()
        refused([*command, "--seed=1", "--overwrite"], capsys, 130)
    assert (tmp_path / "run/samples.npz").read_bytes() == before, "until the new one is whole, the earlier one stands"
    main([*command, "--seed=1", "--resume"])
    assert (tmp_path / "run/samples.npz").read_bytes() != before
    assert json.loads((tmp_path / "run/run.json").read_text())["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_foreign_files_are_left_alone(toy_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "run.partial/thesis.tex").write_text("mine")
    for flag in ("--overwrite", "--resume"):
        assert "run.partial, which also holds thesis.tex" in refused([*SMALL, *toy_flags, "--out=run", flag], capsys)
    assert (tmp_path / "run.partial/thesis.tex").read_text() == "mine"
    assert "out: expected a folder with a name of its own" in refused([*SMALL, *toy_flags, "--out=."], capsys)


def test_a_class_that_cannot_be_drawn_leaves_nothing(
    toy_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfgradgen.mcmc.rejection.MAX_FRUITLESS_DRAWS", 0)
    monkeypatch.setattr("tfgradgen.mcmc.rejection.weigh", never_accepting)
    command = [*SMALL, "--kernel=rejection", "--num_results=4", "--out=run", *toy_flags]
    assert "rejection: expected a class that the generator can draw" in refused(command, capsys)
    assert not list(tmp_path.iterdir())


def never_accepting(*given: Any) -> Any:
    found = weigh(*given)
    return found._replace(log_uniform=np.zeros_like(found.log_uniform))
