"""The README's main command against exact draws. It is slow, so it has its own file, which can run in parallel to others."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shipped_cache")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, shipped_cache: None) -> dict[str, Path]:
    """Run the README's main command and its exact draws in an empty folder, as a user would."""
    folder = tmp_path_factory.mktemp("runs")
    for kernel, further in (("mala", []), ("rejection", ["--num_results=8"])):  # 128 draws: the error of the reference is small
        command = [sys.executable, "-m", "tfgradgen", "sample", "--label=goldfish", f"--kernel={kernel}", *further]
        subprocess.run(command, check=True, cwd=folder, capture_output=True)
    return {kernel: folder / "out" / f"goldfish-{kernel}-0" for kernel in ("mala", "rejection")}


def test_the_main_command_agrees_with_exact_draws(runs: dict[str, Path]) -> None:
    record = json.loads((runs["mala"] / "run.json").read_text())
    with np.load(runs["rejection"] / "samples.npz") as exact:
        truth, spread = exact["class_prob"].mean(), exact["class_prob"].std()
    # In one minute, chains hardly leave their modes, so each counts as one draw: with exact starts it is never worth less.
    # The error that the run itself reports is too small then, and its warnings say so.
    tolerance = 3 * spread / np.sqrt(record["arguments"]["num_chains"])
    assert abs(record["statistics"]["class_prob"]["mean"] - truth) < tolerance
    assert record["prior_class_prob"] < truth - tolerance, "the prior has to fail"
    assert truth + tolerance < 1, "an ascent to sure images has to fail"
    assert abs(record["accept_rate"] - record["arguments"]["kernel_config"]["target_accept_prob"]) < 0.1
    exact_record = json.loads((runs["rejection"] / "run.json").read_text())
    assert (record["grades"]["images"], exact_record["problems"]) == ("ok", [])
    with Image.open(runs["mala"] / "grid.png") as grid:
        assert grid.size == (532, 628)
