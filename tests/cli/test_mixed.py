"""Classes beside conditions in one command: each run is the run of its label alone, and is repeated alone."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import CTRL_C, FAST, refused, stop_after, with_flags
from tfgradgen.cli.commands import main
from tfgradgen.cli.load import load_models
from tfgradgen.cli.tune import identity
from tfgradgen.cli.tune_options import parse_tune
from tfgradgen.mcmc.recipe import default_recipe
from tfgradgen.play.source import load_posterior
from tfgradgen.results.again import again
from tfgradgen.results.result import load_run

pytestmark = pytest.mark.usefixtures("quick_runs")

REJECTION = ["--kernel=rejection", "--num_results=20", "--num_chains=3"]
MIXED = ["sample", "--label=goldfish,goldfish & !alp", *REJECTION]


def record(folder: str) -> dict[str, Any]:
    return dict(json.loads(Path(folder, "run.json").read_text()))


def bytes_of(folder: str) -> bytes:
    return Path(folder, "samples.npz").read_bytes()


def as_earlier(folder: str, label: str) -> None:
    """Make the run of a condition that was named alone one of a list, as an earlier version wrote it."""
    changed = record(folder)
    changed["arguments"]["label"] = label
    Path(folder, "run.json").write_text(json.dumps(changed))


def test_each_run_is_that_of_its_label_alone_and_is_repeated_alone(toy_flags: list[str]) -> None:
    main([*MIXED, *toy_flags, "--out=both"])
    for label, name in (("goldfish", "goldfish"), ("goldfish & !alp", "goldfish_not_alp")):
        own = f"both/{name}"
        main(["sample", f"--label={label}", *REJECTION, *toy_flags, f"--out=alone/{name}"])
        assert record(own)["label"] == record(f"alone/{name}")["label"]
        command = again(record(own)).command
        assert f"--label={shlex.quote(label)} " in command
        main([*shlex.split(command)[3:], f"--out=again/{name}"])
        main(["sample", f"--like={own}", f"--out=like/{name}"])
        assert bytes_of(own) == bytes_of(f"alone/{name}") == bytes_of(f"again/{name}") == bytes_of(f"like/{name}")


def test_a_class_that_an_earlier_version_made_a_condition(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", "--label=(goldfish)", *REJECTION, *toy_flags, "--out=both/goldfish"])
    as_earlier("both/goldfish", "goldfish,goldfish & !alp")
    before = bytes_of("both/goldfish")
    posterior = load_posterior(load_run("both/goldfish"))
    assert (int(posterior.label), posterior.label_names) == (1, ["goldfish"])
    main(["sample", "--like=both/goldfish", "--out=like"])
    assert bytes_of("like") == before
    capsys.readouterr()
    assert "resume: expected classifier signature None" in refused([*MIXED, *toy_flags, "--out=both", "--resume"], capsys)
    main([*with_flags(MIXED, "--label=(goldfish),goldfish & !alp"), *toy_flags, "--out=both", "--resume"])
    assert bytes_of("both/goldfish") == before


def test_a_batch_beside_a_condition_with_the_same_index_is_resumed(
    toy_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sample", "--label=goldfish,king_penguin,goldfish & !alp", "--kernel=mala", *FAST, *toy_flags]
    main([*command, "--out=whole"])
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, CTRL_C, patch)
        refused([*command, "--out=cut"], capsys, 130)
    assert Path("cut/labels.batch.partial").is_dir()
    main([*command, "--out=cut", "--resume"])
    names = ("goldfish", "king_penguin", "goldfish_not_alp")
    assert [bytes_of(f"cut/{name}") for name in names] == [bytes_of(f"whole/{name}") for name in names]
    assert "--label=goldfish,king_penguin " in again(record("cut/king_penguin")).command
    shutil.rmtree("cut/king_penguin")
    main([*with_flags(command, "--num_results=6"), "--out=whole", "--resume"])
    assert record("whole/king_penguin")["arguments"]["schedule"]["num_results"] == 6


@pytest.mark.parametrize(
    ("label", "classes"), [("goldfish,alp", None), ("!alp,!goldfish", None), ("goldfish,!alp", ["goldfish"])]
)
def test_a_search_of_classes_beside_conditions_is_not_that_of_an_earlier_version(
    label: str, classes: Any, toy_flags: list[str]
) -> None:
    given = dict(flag.lstrip("-").split("=", 1) for flag in toy_flags)
    options = parse_tune({"label": label, "kernel": "mala", **given})
    assert identity(options, default_recipe("mala"), load_models(options.sampled.models)).get("classes") == classes
