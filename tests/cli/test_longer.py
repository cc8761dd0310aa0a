"""A run that is extended ends with the same bytes as a run of that length from the start."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.command import CTRL_C, refused, stop_after
from tests.support.toy import ToyClassifier, ToyGenerator
from tfgradgen.cli.commands import main
from tfgradgen.core.config import RunConfig, Schedule
from tfgradgen.core.contracts import Chunk, Draws
from tfgradgen.io.store import CHECKPOINT, RunStore
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.mcmc.sampler import Resume
from tfgradgen.posterior import ClassPosterior

pytestmark = pytest.mark.usefixtures("quick_runs")

START = ["sample", "--label=goldfish", "--num_chains=3"]
POSTERIOR = ClassPosterior(ToyGenerator(), ToyClassifier(), 1)
LONGER = [name for name, preset in SAMPLERS.items() if preset.can_go_on]


def command_of(kernel: str, num_results: int, flags: list[str]) -> list[str]:
    burnin = ["--num_burnin_steps=7"] if SAMPLERS[kernel].schedule.num_burnin_steps else []
    return [*START, f"--kernel={kernel}", f"--num_results={num_results}", *burnin, *flags]


def record_of(folder: str) -> dict[str, Any]:
    """Return run.json without the entries that may differ between two runs of the same draws."""
    record = json.loads(Path(folder, "run.json").read_text())
    for name in ("out", "resume", "overwrite"):
        del record["arguments"][name]
    del record["seconds"]
    return record


def assert_same(one: str, other: str) -> None:
    assert Path(one, "samples.npz").read_bytes() == Path(other, "samples.npz").read_bytes()
    for name in ("grid.png", "film.png", "plots.png"):
        assert Path(one, name).read_bytes() == Path(other, name).read_bytes(), name
    assert record_of(one) == record_of(other)


NUM_RESULTS = {"rejection": 900, "elliptical_slice": 60}  # the others have 25: more than two chunks


def chunks_of(kernel: str, num_results: int, resume: Resume | None = None) -> Iterator[Chunk]:
    method = SAMPLERS[kernel]
    burnin = 7 if method.schedule.num_burnin_steps else 0
    changes = {"class_reg": 0.1, "ess_share": 0.95, "num_optimization_steps": 12}
    config = replace(method.defaults, **{name: changes[name] for name in changes.keys() & method.defaults.to_dict().keys()})
    schedule = Schedule(num_results, burnin, min(burnin, method.schedule.num_adaptation_steps))
    return method.chunks_fn(POSTERIOR, config, schedule, RunConfig(num_chains=3), resume)


def stopped_after_every_chunk(kernel: str, num_results: int, folder: Path) -> tuple[Draws, list[Chunk]]:
    """Return all draws and the chunks of a run that is resumed from its folder after each chunk, as by `sample --resume`."""
    chunks: list[Chunk] = []
    while not chunks or chunks[-1].progress.num_done < chunks[-1].progress.num_total:
        store = RunStore(folder, {"seed": 0})
        resume = None if store.state is None else Resume(store.state, store.stats)
        chunks.append(next(chunks_of(kernel, num_results, resume)))
        store.append(chunks[-1].draws, chunks[-1].state, store.stats | chunks[-1].stats | chunks[-1].cost._asdict())
    return store.draws(), chunks


@pytest.mark.slow
@pytest.mark.parametrize("kernel", SAMPLERS)
def test_every_method_goes_on_from_any_chunk_and_from_where_a_shorter_run_ended(kernel: str, tmp_path: Path) -> None:
    num_results = NUM_RESULTS.get(kernel, 25)
    whole = list(chunks_of(kernel, num_results))
    draws, chunks = stopped_after_every_chunk(kernel, num_results, tmp_path)
    assert len(chunks) == len(whole) > 2
    for name in Draws._fields:
        expected = np.concatenate([getattr(chunk.draws, name) for chunk in whole])
        np.testing.assert_array_equal(getattr(draws, name), expected, err_msg=name)
    assert (chunks[-1].cost, chunks[-1].stats) == (whole[-1].cost, whole[-1].stats)
    np.testing.assert_equal(
        *(each[-1].progress._replace(is_stored=False)._asdict() for each in (chunks, whole))
    )  # a step size of NaN means that there is none
    if kernel not in LONGER:
        return
    first = list(chunks_of(kernel, 4))
    rest = list(chunks_of(kernel, num_results, Resume(first[-1].state, first[-1].stats)))
    for name in Draws._fields:
        columns = [np.concatenate([getattr(chunk.draws, name) for chunk in chunks]) for chunks in (whole, [*first, *rest])]
        np.testing.assert_array_equal(*columns, err_msg=name)
    assert (rest[-1].cost, rest[-1].stats) == (whole[-1].cost, whole[-1].stats)
    for name, value in whole[-1].state.items():
        np.testing.assert_array_equal(rest[-1].state[name], value, err_msg=name)


@pytest.mark.parametrize("kernel", ["mala", "rejection"])
def test_a_longer_run_has_the_bytes_of_one_that_was_so_long_from_the_start(
    kernel: str, toy_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([*command_of(kernel, 125, toy_flags), "--out=whole"])
    main([*command_of(kernel, 4, toy_flags), "--out=run"])
    first = Path("run/samples.npz").read_bytes()
    longer = [*command_of(kernel, 125, toy_flags), "--out=run", "--resume"]
    for num_appends in (0, 1, 2):  # before anything, before the first further draw, and after it
        with pytest.MonkeyPatch.context() as patch:
            stop_after(num_appends, CTRL_C, patch)
            capsys.readouterr()
            assert "interrupted" in refused(longer, capsys, 130)
        assert Path("run/samples.npz").read_bytes() == first, "until the longer run is whole, the shorter one stands"
    main(longer)
    assert_same("run", "whole")
    assert sorted(path.name for path in Path().iterdir()) == ["run", "whole"]


def test_an_unfinished_run_can_be_made_longer_too(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*command_of("mala", 60, toy_flags), "--out=whole"])
    with pytest.MonkeyPatch.context() as patch:
        stop_after(3, CTRL_C, patch)
        capsys.readouterr()
        refused([*command_of("mala", 50, toy_flags), "--out=run"], capsys, 130)
    main([*command_of("mala", 60, toy_flags), "--out=run", "--resume"])
    assert_same("run", "whole")


def test_of_several_labels_each_is_made_longer(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    several = ["--label=goldfish,alp"]
    main(["sample", *several, *_short(6, toy_flags, "whole")])
    main(["sample", *several, *_short(4, toy_flags, "run")])
    capsys.readouterr()
    some = ["sample", "--label=alp,king_penguin", *_short(6, toy_flags, "run"), "--resume"]
    assert "the labels that ran as one batch, as in run/alp: goldfish,alp" in refused(some, capsys)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, CTRL_C, patch)  # the checkpoint of the laid-out run counts as the first
        assert "run/labels.batch.partial" in refused(
            ["sample", *several, *_short(6, toy_flags, "run"), "--resume"], capsys, 130
        )
    main(["sample", *several, *_short(6, toy_flags, "run"), "--resume"])
    assert sorted(path.name for path in Path("run").iterdir()) == ["alp", "goldfish", "sheet.png"]
    for label in ("goldfish", "alp"):
        assert Path("run", label, "samples.npz").read_bytes() == Path("whole", label, "samples.npz").read_bytes()
    assert Path("run/sheet.png").read_bytes() == Path("whole/sheet.png").read_bytes()
    main(["sample", *several, *_short(6, toy_flags, "run"), "--resume"])
    assert capsys.readouterr().out.count("kept     run/") == 2


def test_files_that_a_run_has_stay_in_its_record(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A longer run has the further files of the shorter one, whether they are asked for again or were added later."""
    main([*command_of("mala", 4, toy_flags), "--out=run", "--save_images"])
    for command in (
        [*command_of("mala", 6, toy_flags), "--out=run", "--resume"],
        [*command_of("mala", 6, toy_flags), "--out=run", "--resume", "--netcdf"],
    ):
        capsys.readouterr()
        main(command)
        images = capsys.readouterr().out.count("image-*.png")
    record = json.loads(Path("run/run.json").read_text())
    assert (record["arguments"]["netcdf"], record["arguments"]["save_images"], images) == (True, True, 0)
    assert {"chains.nc", "image-0.png"} <= {path.name for path in Path("run").iterdir()}
    main([*command_of("mala", 8, toy_flags), "--out=run", "--resume"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert "chains.nc, image-*.png" in last
    report = Path("run/report.html").read_text()
    assert "--netcdf" in report
    assert "--save_images" in report


def _short(num_results: int, flags: list[str], out: str) -> list[str]:
    return ["--kernel=mala", "--num_chains=2", "--num_burnin_steps=4", f"--num_results={num_results}", f"--out={out}", *flags]


def test_what_cannot_be_made_longer_says_why(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*command_of("mala", 6, toy_flags), "--out=run"])
    before = Path("run/samples.npz").read_bytes()
    capsys.readouterr()
    line = refused([*command_of("mala", 5, toy_flags), "--out=run", "--resume"], capsys)
    assert "expected at least the --num_results=6 of the run in run, got --num_results=5" in line
    line = refused([*command_of("mala", 9, toy_flags), "--seed=1", "--out=run", "--resume"], capsys)
    assert "expected --seed=0 as in run, got --seed=1" in line
    Path("run", CHECKPOINT).rename("elsewhere")
    line = refused([*command_of("mala", 9, toy_flags), "--out=run", "--resume"], capsys)
    assert f"got run, which has no {CHECKPOINT}; start over with --overwrite" in line
    Path("run", CHECKPOINT).write_bytes(Path("elsewhere").read_bytes()[:-40])
    line = refused([*command_of("mala", 9, toy_flags), "--out=run", "--resume"], capsys)
    assert line.startswith(f"tfgradgen: resume run: expected a run with an intact {CHECKPOINT}, got a damaged one")
    with np.load("run/samples.npz") as file:
        arrays = dict(file)
    Path("run", CHECKPOINT).write_bytes(Path("elsewhere").read_bytes())
    np.savez_compressed("run/samples.npz", **arrays | {"z": arrays["z"] + 1})
    assert "z.raw does not match its checksum" in refused([*command_of("mala", 9, toy_flags), "--out=run", "--resume"], capsys)
    Path("run/samples.npz").write_bytes(before)
    main([*command_of("mala", 9, toy_flags), "--out=run", "--resume"])
    capsys.readouterr()
    populations = [*START, "--kernel=smc", *toy_flags, "--out=population"]
    main([*populations, "--num_results=4"])
    assert not Path("population", CHECKPOINT).exists()
    capsys.readouterr()
    line = refused([*populations, "--num_results=8", "--resume"], capsys)
    assert ": the particles of smc move together, got --num_results=8, another run" in line
