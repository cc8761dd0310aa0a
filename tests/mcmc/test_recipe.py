"""Schedules as files: they are read as written, errors take one line, and a run follows its schedule bit for bit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.command import refused, stop_after
from tfgradgen.cli.commands import main
from tfgradgen.core.checks import UserError
from tfgradgen.core.config import Schedule
from tfgradgen.mcmc.hmc import HmcConfig
from tfgradgen.mcmc.mala import MalaConfig
from tfgradgen.mcmc.recipe import Recipe, default_recipe, read_recipe, recipe_text
from tfgradgen.mcmc.registry import SAMPLERS

pytestmark = pytest.mark.usefixtures("quick_runs")

HMC = Recipe("hmc", HmcConfig(0.25, 0.7, 2, decay_rate=0.8), Schedule(20, 24, 16))


@pytest.mark.parametrize("kernel", SAMPLERS)
def test_what_is_written_is_read_again(kernel: str, tmp_path: Path) -> None:
    recipe = default_recipe(kernel)
    (tmp_path / "a.yaml").write_text(recipe_text(recipe, "of\ntwo lines"))
    assert read_recipe(tmp_path / "a.yaml") == recipe
    assert (tmp_path / "a.yaml").read_text().startswith("# of\n# two lines\nkernel: ")
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]


def test_settings_that_are_not_the_defaults_are_kept_and_the_rest_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(recipe_text(HMC))
    assert read_recipe(tmp_path / "a.yaml") == HMC
    (tmp_path / "b.yaml").write_text("kernel: hmc\nnum_burnin_steps: 20\nstep_size: 1\n")
    short = read_recipe(tmp_path / "b.yaml")
    assert short.config == replace(SAMPLERS["hmc"].defaults, step_size=1.0)
    whole = SAMPLERS["hmc"].schedule
    share = whole.num_adaptation_steps / whole.num_burnin_steps
    assert short.schedule == Schedule(whole.num_results, 20, int(share * 20)), "tuning keeps its share of the burn-in"


def test_numbers_are_read_as_people_write_them(tmp_path: Path) -> None:
    for text, value in (("1e-1", 0.1), ("+.5", 0.5), ("2E+1", 20.0), ("3.", 3.0), ("1.0e-05", 1e-5), ("2", 2.0)):
        (tmp_path / "a.yaml").write_text(f"kernel: hmc\nstep_size: {text}\nnum_results: 010\n")
        recipe = read_recipe(tmp_path / "a.yaml")
        assert recipe.config.to_dict()["step_size"] == value
        assert recipe.schedule.num_results == 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "schedule a.yaml: expected a YAML file, got no such file"),
        ("kernel: [hmc", "schedule a.yaml: expected a YAML file, got a syntax error in line 1: "),
        ("kernel: hmc\n  step_size: 1", "in line 2"),
        ("- hmc", "expected `name: value` lines, one of them the kernel, got list"),
        ("step_size: 0.1", "got no kernel; add for example `kernel: hmc`"),
        ("kernel: hcm", "schedule a.yaml: kernel: expected one of mala, hmc"),
        ("kernel: hmc\nstep_sise: 0.1", "got step_sise; did you mean step_size?"),
        ("kernel: mala\nnum_leapfrog_steps: 2", "a setting of mala: one of step_size, target_accept_prob, adaptation"),
        ("kernel: rejection\nnum_burnin_steps: 2", "a setting of rejection: one of num_results, got num_burnin_steps"),
        ("kernel: mala\nnum_windows: 0", "got num_windows; all coordinates have the same step size now; leave it out"),
        ("kernel: hmc\nstep_size: -1", "schedule a.yaml: step_size: expected a number above 0, got -1"),
        ("kernel: hmc\nnum_results: 1:20", "num_results: expected an integer in 1..1000000000, got '1:20'"),
        ("kernel: hmc\nnum_results: 0o17", "num_results: expected an integer in 1..1000000000, got '0o17'"),
        ("kernel: hmc\nnum_results: !!int 0x1F", "expected a YAML file, got "),
        (f"kernel: hmc\nnum_results: {'9' * 5000}", "expected a YAML file, got "),
        ("kernel: hmc\nstep_size: 1_0.5", "step_size: expected a number above 0, got '1_0.5'"),
        ("kernel: hmc\nstep_size: .inf", "step_size: expected a number above 0, got "),
        ("kernel: hmc\nnum_results: many", "num_results: expected an integer in 1..1000000000, got 'many'"),
        ("kernel: hmc\ndecay_rate: 0.5", "decay_rate: expected a number above 0.5 and below 1, got 0.5"),
        ("kernel: hmc\nadaptation: sipmle", "got 'sipmle'; did you mean simple?"),
        ("kernel: hmc\nadaptation_rate: 0.3", "got 0.3; leave it out, or give adaptation='simple'"),
        ("kernel: hmc\nadaptation: simple\ndecay_rate: 0.6", "got 0.6; leave it out, or give adaptation='dual_averaging'"),
        ("kernel: hmc\nnum_burnin_steps: 50\nnum_adaptation_steps: 51", "at most num_burnin_steps=50, got 51"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    text: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("a.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        read_recipe(Path("a.yaml"))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_recipe_is_of_one_kernel() -> None:
    schedule = Schedule(2, 1, 1)
    for given, said in (
        (("hxc", HmcConfig(), schedule), "kernel: expected one of .* did you mean hmc"),
        ((["hmc"], HmcConfig(), schedule), "kernel: expected one of "),
        (("hmc", MalaConfig(), schedule), "config: expected settings of class HmcConfig, as hmc takes, got MalaConfig"),
        (
            ("rejection", MalaConfig(), schedule),
            "config: expected settings of class KernelConfig, as rejection takes",
        ),
        (("hmc", None, schedule), "config: expected settings of class HmcConfig, as hmc takes, got NoneType"),
        (("hmc", HmcConfig(), 3), "schedule: expected a Schedule, got int"),
    ):
        with pytest.raises(UserError, match=f"^{said}"):
            Recipe(*given)  # type: ignore[arg-type]


def samples(folder: str) -> bytes:
    return Path(folder, "samples.npz").read_bytes()


def test_a_run_follows_its_schedule_and_single_flags_go_before_it(
    toy_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.yaml").write_text(recipe_text(HMC))
    command = ["sample", "--label=goldfish", "--num_chains=3", "--schedule=a.yaml", *toy_flags]
    main([*command, "--out=file"])
    spelt = [f"--{name}={value}" for name, value in HMC.to_dict().items() if name != "adaptation_rate"]
    main(["sample", "--label=goldfish", "--num_chains=3", *spelt, *toy_flags, "--out=flags"])
    assert samples("file") == samples("flags"), "a file is nothing but flags"
    main([*command, "--out=changed", "--num_results=5", "--num_leapfrog_steps=1"])
    arguments = json.loads(Path("changed/run.json").read_text())["arguments"]
    assert arguments["schedule"] == {"num_results": 5, "num_burnin_steps": 24, "num_adaptation_steps": 16}
    assert arguments["kernel_config"]["num_leapfrog_steps"] == 1
    assert arguments["kernel_config"]["decay_rate"] == 0.8
    assert arguments["schedule_file"] == "a.yaml"
    capsys.readouterr()
    assert "kernel: expected hmc, as in a.yaml, got mala" in refused([*command, "--kernel=mala", "--out=none"], capsys)
    assert not Path("none").exists()


@pytest.mark.parametrize(
    ("settings", "num_appends"),
    [({}, 3), ({"adaptation": "simple", "decay_rate": 0.75}, 1)],
)
def test_resumed_in_any_part_of_the_adaptation_it_ends_with_the_same_bytes(
    settings: dict[str, Any], num_appends: int, toy_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Chunks of mala have 20 transitions, so the run stops during the adaptation."""
    recipe = default_recipe("mala").changed({"num_results": 20, "num_burnin_steps": 100, "num_adaptation_steps": 84} | settings)
    Path("a.yaml").write_text(recipe_text(recipe))
    command = ["sample", "--label=goldfish", "--num_chains=3", "--schedule=a.yaml", *toy_flags]
    main([*command, "--out=whole"])
    with pytest.MonkeyPatch.context() as patch:
        stop_after(num_appends, KeyboardInterrupt(), patch)
        with pytest.raises(SystemExit):
            main([*command, "--out=cut"])
    main([*command, "--out=cut", "--resume"])
    assert samples("cut") == samples("whole")
    with np.load("whole/samples.npz") as file:
        assert (file["step_size"] == file["step_size"][0]).all(), "frozen after the adaptation"
