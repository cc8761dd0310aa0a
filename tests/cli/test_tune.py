"""The `tune` command on the toy pair: what it finds, writes, resumes and refuses."""

import csv
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from PIL import Image

from tests.support.command import refused, with_flags
from tests.support.fleets import HereFleet, on_fleet
from tests.support.toy import ToyClassifier, ToyGenerator
from tfgradgen.cli.commands import main
from tfgradgen.core.checks import UserError
from tfgradgen.core.config import RunConfig, Schedule
from tfgradgen.diagnostics.convergence import statistics
from tfgradgen.mcmc.chains import sample_chains
from tfgradgen.mcmc.recipe import Recipe, default_recipe, read_recipe
from tfgradgen.mcmc.starts import initial_points
from tfgradgen.posterior import ClassPosterior
from tfgradgen.tuning.objective import FRESH, SEARCH, TRACE_POINTS, Objective, Problem, often_diverged
from tfgradgen.tuning.space import filled, ranges_of

pytestmark = pytest.mark.usefixtures("quick_runs")

POOR = "kernel: hmc\nstep_size: 0.03\nnum_leapfrog_steps: 1\nnum_burnin_steps: 10\nnum_adaptation_steps: 0\n"
SILENT: Any = lambda *_: None  # noqa: E731
OURS = ["best.yaml", "report.html", "report.md", "study.db", "tuning.csv", "tuning.png"]


@pytest.fixture
def command(toy_flags: list[str]) -> list[str]:
    """A small search over settings that share one graph, because compiling takes most of the time."""
    Path("poor.yaml").write_text(POOR)
    own = ["--num_gradients=120", "--budget=1200", "--num_seeds=1", "--num_fresh=2", "--num_chains=4"]
    held = ["--adaptation=dual_averaging", "--step_count_smoothing=10"]
    return ["tune", "--label=goldfish,alp", "--kernel=hmc", "--control=poor.yaml", *held, *own, *toy_flags]


def stop_after(num_runs: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe, Problem]]:
    """Raise Ctrl-C in the run after this number of runs; return the list of the runs made."""
    made, measure = list[Any](), Objective.measure

    def measured(self: Objective, recipe: Recipe, problem: Problem, progress_fn: Any) -> Any:
        if len(made) == num_runs:
            raise KeyboardInterrupt
        made.append((recipe, problem))
        return measure(self, recipe, problem, progress_fn)

    monkeypatch.setattr(Objective, "measure", measured)
    return made


def test_workers_find_the_same(command: list[str]) -> None:
    """The search, the fresh seeds and the report do not depend on where runs are measured, or on the loss of a worker."""
    few = with_flags(command, "--budget=480", "--num_seeds=2")
    main([*few, "--out=near"])
    with on_fleet(HereFleet((3, 8))) as engine:
        main([*few, "--devices=all", "--out=far"])
    assert engine.scheduler.num_lost == 2
    near, far = (list(csv.DictReader(Path(place, "tuning.csv").read_text().splitlines())) for place in ("near", "far"))
    assert [row | {"seconds": ""} for row in near] == [row | {"seconds": ""} for row in far]
    assert Path("near/best.yaml").read_text() == Path("far/best.yaml").read_text().replace("--out=far", "--out=near")


@pytest.mark.slow
def test_it_beats_a_poor_control_though_interrupted(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        made = stop_after(12, patch)  # on fresh seeds: the search takes ten runs
        with pytest.raises(SystemExit) as exit_:
            main([*command, "--out=found"])
    assert exit_.value.code == 130
    assert "interrupted; finished runs are in found/study.db, --resume goes on with them" in capsys.readouterr().err
    assert [path.name for path in Path("found").iterdir()] == ["study.db"]
    with pytest.MonkeyPatch.context() as patch:
        later = stop_after(100, patch)
        main([*command, "--out=found", "--resume"])
    assert not set(made) & set(later), "no run is made twice"
    assert made[11][1].stream == FRESH
    said = capsys.readouterr().out
    assert "\ngain     Trial " in f"\n{said}"
    assert sorted(path.name for path in Path("found").iterdir()) == OURS
    report = Path("found/report.md").read_text()
    ratio = float(report.split(" gives ")[1].split(" times")[0])
    assert ratio > 3
    best = read_recipe(Path("found/best.yaml"))
    assert best.kernel == "hmc"
    assert best.config.to_dict()["step_size"] != 0.03
    with Path("found/tuning.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["state"] == "control"
    assert {(row["adaptation"], row["step_count_smoothing"]) for row in rows if row["step_size"]} == {("dual_averaging", "10")}
    assert "Fixed in all proposals: adaptation dual_averaging, step_count_smoothing 10." in report
    assert " --adaptation=dual_averaging --step_count_smoothing=10 " in report
    assert sum(float(row["gradients"] or 0) for row in rows) >= 1200
    with Image.open("found/tuning.png") as image:
        assert image.size[0] == 1500
    main(["sample", "--label=goldfish", "--schedule=found/best.yaml", "--num_chains=4", *command[-2:], "--out=run"])
    files = {name: Path("found", name).read_bytes() for name in OURS if name != "study.db"}
    with pytest.MonkeyPatch.context() as patch:
        stop_after(0, patch)  # nothing is run again
        main([*command, "--out=found", "--resume"])
    assert files == {name: Path("found", name).read_bytes() for name in files}
    capsys.readouterr()
    said = refused(with_flags(command, "--num_gradients=130", "--out=found", "--resume"), capsys)
    assert "expected --num_gradients=120" in said
    assert said.rstrip().endswith("give the same value, or choose another --out."), "there is no --overwrite"
    assert "out: expected a new folder, got found, which exists; continue" in refused([*command, "--out=found"], capsys)


@pytest.mark.slow
def test_where_nothing_is_better_the_control_stands_and_it_is_said(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = ranges_of("hmc") | {"step_size": lambda trial, name: trial.suggest_float(name, 1e-4, 1e-3, log=True)}
    monkeypatch.setattr("tfgradgen.tuning.space.ranges_of", lambda kernel: ranges)
    monkeypatch.setattr("tfgradgen.tuning.space.MAX_BURNIN_SHARE", 0.04)  # no step size is tuned far from its initial value
    Path("good.yaml").write_text(
        "kernel: hmc\nstep_size: 0.8\nnum_leapfrog_steps: 2\nnum_burnin_steps: 10\nnum_adaptation_steps: 0\n"
    )
    main(with_flags(command, "--control=good.yaml", "--budget=480", "--out=none"))
    assert "\ngain     No improvement" in capsys.readouterr().out
    assert Path("none/best.yaml").read_text().startswith("# No improvement")
    assert read_recipe(Path("none/best.yaml")).config == read_recipe(Path("good.yaml")).config


def test_a_full_disk_is_said(command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **named: Any) -> None:
        raise StorageInternalError("An exception is raised") from sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(RDBStorage, "set_trial_user_attr", full)
    line = refused([*command, "--out=full"], capsys)
    assert "out: expected a study that can be written, got full/study.db (database or disk is full); free space" in line


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--budjet=9"], "unknown flag --budjet; did you mean --budget"),
        (["--kernel=hcm"], "kernel: expected one of mala, hmc"),
        (["--kernel=rejection"], "kernel: expected one of mala, hmc"),
        (["--label=goldfisch"], "did you mean goldfish"),
        (["--budget=100"], "budget: expected at least one run of num_gradients 120, got 100; raise it, to some twenty runs"),
        (["--budget=many"], "budget: expected a number above 0, got 'many'"),
        (["--num_gradients=59"], "num_gradients: expected an integer in 60..10000000, got 59"),
        (["--control=none.yaml"], "schedule none.yaml: expected a YAML file, got no such file"),
        (["--control=mala.yaml"], "control: expected a schedule of hmc, got one of mala; give --kernel=mala"),
        (
            ["--control=long.yaml"],
            "num_gradients: expected at least 370, the control's burn-in and 20 draws, got 120; raise it",
        ),
        (["--num_chains=3"], "num_chains: expected an integer in 4..4096, got 3"),
        (["--num_fresh=1"], "num_fresh: expected an integer in 2..1000, got 1"),
        (["--num_windows=0"], "got --num_windows; all coordinates have the same step size now; leave it out"),
        (["--class_reg=1"], "flags: expected a setting of hmc: one of step_size, "),
        (
            ["--num_leapfrog_steps=9"],
            "of hmc, --adaptation=dual_averaging, --step_count_smoothing=10, --num_leapfrog_steps=9, got 120",
        ),
        (
            ["--adaptation_rate=0.2"],
            "adaptation_rate: expected a setting that adaptation 'dual_averaging' uses, got 0.2; leave",
        ),
        (["--num_seeds=0"], "num_seeds: expected an integer in 1..1000, got 0"),
        (["--init=photo.png"], "init: expected one of resample, prior, got 'photo.png'; the chains of a trial start at"),
        (["--init=annealed"], "init: expected one of resample, prior, got 'annealed'"),
        (["--generator=nothing"], "model nothing: expected a SavedModel folder"),
        (["--out=full"], "out: expected a new folder, got full, which exists"),
        (["--out=full", "--resume"], "out: expected the folder of a search to resume, got full, which also holds mine.txt"),
        (["stray"], "arguments: expected flags such as --seed=1, got 'stray'"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line_and_leaves_nothing(
    flags: list[str], said: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mala.yaml").write_text("kernel: mala\n")
    Path("long.yaml").write_text("kernel: hmc\nnum_burnin_steps: 350\nnum_leapfrog_steps: 1\n")
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    before = sorted(Path().rglob("*"))
    assert said in refused(with_flags([*command, "--out=new"], *flags), capsys)
    assert sorted(Path().rglob("*")) == before


def test_a_lack_of_optuna_is_said(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    assert "pip install 'tfgradgen[tune]'" in refused([*command, "--out=new"], capsys)


def test_a_cell_counts_every_gradient_and_takes_the_worst_statistic() -> None:
    posterior, run = ClassPosterior(ToyGenerator(), ToyClassifier(), 1), RunConfig(num_chains=4, seed=3)
    recipe = filled(default_recipe("hmc").changed({"num_burnin_steps": 20}), 150)
    objective = Objective({"one": posterior}, run, 150)
    problem = Problem("one", SEARCH, 1)
    cell = objective.measure(recipe, problem, SILENT)
    assert cell.work == 1 + 3 * 50, "a gradient at the start, and all that burn-in and adaptation took"
    assert cell.num_results == 50 - 20
    assert cell == objective.measure(recipe, problem, SILENT)._replace(seconds=cell.seconds), "the same problem, the same run"
    seeded = RunConfig(num_chains=4, seed=objective.seed_at(problem))
    start = initial_points(posterior, seeded)[0]
    draws, _ = sample_chains(
        posterior, "hmc", recipe.config, Schedule(30, 20, recipe.schedule.num_adaptation_steps), seeded, start
    )
    sizes = {name: found.ess_bulk or 0.0 for name, found in statistics(draws).items()}
    assert cell.worst == min(sizes, key=lambda name: sizes[name])
    assert cell.per_1000 == pytest.approx(1000 * sizes[cell.worst] / (151 * 4))
    assert len(cell.trace["gradients"]) == len(cell.trace["step_size"]) == min(TRACE_POINTS, 50)
    assert cell.trace["gradients"] == sorted(cell.trace["gradients"])
    assert cell.trace["gradients"][-1] == cell.work
    assert cell.trace["step_size"][-1] == pytest.approx(cell.step_size) == pytest.approx(float(np.median(draws.step_size[-1])))
    other = objective.measure(recipe, problem._replace(replicate=2), SILENT)
    assert other.per_1000 != cell.per_1000


@pytest.mark.parametrize("max_leapfrog_steps", [1, 16])
def test_a_run_takes_its_gradients_whatever_a_transition_takes(max_leapfrog_steps: int) -> None:
    """If trajectories turn out short, a run has more draws, not fewer gradients, or its starts would be cheaper draws."""
    recipe = default_recipe("chees").changed({"max_leapfrog_steps": max_leapfrog_steps, "num_burnin_steps": 20})
    objective = Objective({"one": ClassPosterior(ToyGenerator(), ToyClassifier(), 1)}, RunConfig(num_chains=4), 300)
    cell = objective.measure(filled(recipe, 300), Problem("one", SEARCH, 0), SILENT)
    assert 300 - max_leapfrog_steps < cell.work <= 302
    if max_leapfrog_steps == 1:
        assert cell.num_results == 280


def test_a_run_that_has_too_few_draws_is_refused() -> None:
    recipe = default_recipe("hmc").changed({"num_leapfrog_steps": 10})
    objective = Objective({"one": ClassPosterior(ToyGenerator(), ToyClassifier(), 1)}, RunConfig(num_chains=4), 690)
    with pytest.raises(
        UserError,
        match="expected enough gradients for 20 draws after the burn-in, got 690, enough for 19; raise it, or shorten",
    ):
        objective.measure(recipe, Problem("one", SEARCH, 0), SILENT)


def test_chains_that_stand_still_or_break_are_issues() -> None:
    objective = Objective({"one": ClassPosterior(ToyGenerator(), ToyClassifier(), 1)}, RunConfig(num_chains=4), 90)
    stuck = default_recipe("hmc").changed({"step_size": 60.0, "num_burnin_steps": 0, "num_adaptation_steps": 0})
    cell = objective.measure(filled(stuck, 90), Problem("one", SEARCH, 0), SILENT)
    assert any("never moved" in issue for issue in cell.issues)
    assert "diverged" in often_diverged([cell])[0]
