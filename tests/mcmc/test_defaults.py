"""The defaults of each kernel with a tuned step size are what `tune` found; the reports are in `tools/tuning`."""

from pathlib import Path

import pytest

from tests.support.tuned import TUNABLE
from tfgradgen.mcmc.recipe import default_recipe, read_recipe

REPORTS = Path(__file__).parents[2] / "tools" / "tuning"


@pytest.mark.parametrize("kernel", TUNABLE)
def test_defaults_are_what_tune_found(kernel: str) -> None:
    """They agree to three digits, as written in the kernel's file.

    If the control was kept, the length of the runs may differ.
    """
    path = REPORTS / kernel / "best.yaml"
    found, default = read_recipe(path).to_dict(), default_recipe(kernel).to_dict()
    if path.read_text().startswith("# No "):
        found["num_results"] = default["num_results"]
    assert default == {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in found.items()}


@pytest.mark.parametrize("kernel", TUNABLE)
def test_the_report_says_what_the_schedule_says(kernel: str) -> None:
    folder = REPORTS / kernel
    said = (folder / "best.yaml").read_text().splitlines()
    report = (folder / "report.md").read_text()
    assert f"**{said[0].removeprefix('# ')}**" in report
    assert said[1].removeprefix("# Searched by: ") in [line.strip() for line in report.splitlines()]
    assert f" --kernel={kernel} " in said[1]
    files = {"best.yaml", "report.md", "tuning.csv", "tuning.png"}
    assert {path.name for path in folder.iterdir()} - {"control.yaml"} == files


@pytest.mark.parametrize("kernel", TUNABLE)
def test_the_control_that_was_beaten_is_kept(kernel: str) -> None:
    path = REPORTS / kernel / "control.yaml"
    is_beaten = not (REPORTS / kernel / "best.yaml").read_text().startswith("# No ")
    assert path.exists() == is_beaten
    control = read_recipe(path).to_dict() if is_beaten else {}
    table = (REPORTS / kernel / "report.md").read_text()
    for name, value in control.items():
        assert f"\n| {name} | {value:.4g} |" in table if isinstance(value, float) else f"\n| {name} | {value} |" in table
