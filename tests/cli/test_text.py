"""--text on the command line: alone, with labels, resumed, repeated, varied, exported, and refused before any sampling."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import standins_text
from tests.support.command import FAST, refused
from tfgradgen.cli.commands import main
from tfgradgen.cli.play_options import play_flags
from tfgradgen.core.checks import UserError
from tfgradgen.models.text import load_text_model
from tfgradgen.play.source import load_posterior
from tfgradgen.results.again import again
from tfgradgen.results.result import load_run

pytestmark = pytest.mark.usefixtures("quick_runs")

STEP = ["--chain=0", "--num_images=1", "--num_steps=1"]
REJECTION = ["--kernel=rejection", "--num_results=20", "--num_chains=4"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return standins_text.clip(tmp_path_factory.mktemp("text") / "clip")


@pytest.fixture
def flags(toy_flags: list[str], clip: Path) -> list[str]:
    return [*toy_flags, f"--text_model={clip}"]


def record(folder: str) -> dict[str, Any]:
    return dict(json.loads((Path(folder) / "run.json").read_text()))


def test_a_text_is_sampled_exactly(flags: list[str], clip: Path) -> None:
    """Rejection accepts with p(text): its rate is the mean under the prior, and the draws show the colour."""
    counts = ["--kernel=rejection", "--num_results=150", "--num_chains=4"]
    main(["sample", "--text=a red fish", *counts, *flags])
    (folder,) = Path("out").iterdir()
    assert folder.name == "a_red_fish-rejection-0"
    run = load_run(folder)
    posterior = load_posterior(run)
    prior = posterior.generator(tf.random.stateless_normal([20_000, 6], [3, 4]))
    prob = standins_text.probability("a red fish", prior.numpy())
    rate = run.record["accept_rate"]
    assert abs(rate - prob.mean()) < 5 * np.sqrt(prob.mean() ** 2 * (1 - prob.mean()) / 600)
    redness = lambda image: np.asarray(image)[..., 0].mean((1, 2)) - np.asarray(image)[..., 1:].mean((1, 2, 3))  # noqa: E731
    truth = np.average(redness(prior), weights=prob)
    drawn = redness(posterior.generator(run.draws.z.reshape(-1, 6)))
    error = drawn.std() / np.sqrt(len(drawn))
    assert abs(drawn.mean() - truth) < 5 * error
    assert abs(redness(prior).mean() - truth) > 8 * error, "the prior could be told from the draws"


def test_the_record_holds_the_text_and_what_it_is_told_from(flags: list[str], tmp_path: Path, clip: Path) -> None:
    captions = tmp_path / "own.txt"
    captions.write_text("a blue sky\na green fish\n")
    main(["sample", "--text=red", *REJECTION, *flags, "--out=own", f"--reference_captions={captions}"])
    main(["sample", "--text=red", *REJECTION, *flags, "--out=model"])
    own, model = record("own"), record("model")
    (said,) = own["classifier"]["texts"]
    assert (said["text"], said["num_captions"], own["label"]["name"]) == ("red", 2, "red")
    assert said["sha256"] == load_text_model(clip).sha256 == own["classifier"]["sha256"]
    assert said["captions_sha256"] != model["classifier"]["texts"][0]["captions_sha256"]
    assert own["arguments"]["reference_captions"] == str(captions)
    assert own["final_class_prob"] != model["final_class_prob"]
    with pytest.raises(UserError, match="no file is read because a run names it"):
        load_posterior(load_run("own"))


def test_other_captions_or_another_text_are_another_run(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = tmp_path / "own.txt"
    captions.write_text("a blue sky\n")
    first = ["sample", *REJECTION, *flags, "--out=run", f"--reference_captions={captions}"]
    main([*first, "--text=red"])
    captions.write_text("a blue sky\n# the same\n")
    main([*first, "--text=red", "--resume"])
    capsys.readouterr()
    assert "red" in refused([*first, "--text=green", "--resume"], capsys)
    captions.write_text("a green sky\n")
    assert "texts" in refused([*first, "--text=red", "--resume"], capsys)


def test_a_text_composes_with_labels(flags: list[str]) -> None:
    main(["sample", "--label=goldfish,alp", "--text=a red fish", *REJECTION, *flags, "--out=two"])
    assert {path.name for path in Path("two").iterdir()} == {"goldfish_a_red_fish", "alp_a_red_fish", "sheet.png"}
    run = load_run("two/goldfish_a_red_fish")
    posterior = load_posterior(run)
    assert posterior.label_names == ["goldfish & a red fish"]
    z = run.draws.z[-1]
    probs = posterior.asked[0].log_probs(posterior.generator(z)).numpy()[:, 0]
    text = np.log(standins_text.probability("a red fish", posterior.generator(z).numpy()))
    np.testing.assert_allclose(np.log(run.draws.class_prob[-1]), probs + text, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("label", [None, "goldfish | alp", "all"])
def test_the_command_of_a_run_makes_it_again(label: str | None, flags: list[str]) -> None:
    """The run is repeated by the command in its report and by --like, without the other labels of its command."""
    asked = ["--kernel=mala", *FAST] if label is None else [f"--label={label}", *REJECTION]
    main(["sample", *asked, "--text=a red fish", *flags, "--out=first"])
    own = Path("first") if label != "all" else Path("first/alp_a_red_fish")
    command = again(record(str(own))).command
    assert ("--label" in command) == (label is not None)
    main([*shlex.split(command)[3:], "--out=again"])
    np.testing.assert_array_equal(load_run(own).draws.z, load_run("again").draws.z)
    main(["sample", f"--like={own}", "--out=like"])
    np.testing.assert_array_equal(load_run(own).draws.z, load_run("like").draws.z)


def test_captions_of_a_run_are_not_read_on_its_word(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = tmp_path / "own.txt"
    captions.write_text("a blue sky\n")
    main(["sample", "--text=red", *REJECTION, *flags, "--out=run", f"--reference_captions={captions}"])
    capsys.readouterr()
    assert "captions that you give with --reference_captions" in refused(["sample", "--like=run", "--out=b"], capsys)
    main(["sample", "--like=run", "--out=b", f"--reference_captions={captions}"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--text=a redd fish"], "did you mean red"),
        (["--text="], "words that an image shows"),
        (["--text_model=out", "--label=alp"], "a --text that it is about"),
        (["--reference_captions=x", "--label=alp"], "a --text that it is about"),
        (["--text=red", "--text_model=nowhere"], "nowhere"),
        (["--text=red", "--reference_captions=nowhere.txt"], "no such file"),
        (["--text=red", "--label=gold"], "did you mean goldfish"),
        ([], "give --label=NAME or --text=WORDS"),
    ],
)
def test_mistakes_are_told_before_tensorflow_starts(
    given: list[str], said: str, flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise AssertionError("TensorFlow was started")

    monkeypatch.setattr("tfgradgen.cli.commands._load_tensorflow", fails)
    names = {flag.split("=")[0] for flag in given}
    names |= {"--text_model"} if "--text" not in names else set()
    assert said in refused(["sample", *given, *(flag for flag in flags if flag.split("=")[0] not in names)], capsys)


def test_a_word_of_a_caption_is_checked_too(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = tmp_path / "own.txt"
    captions.write_text("a blue sky\na grene fish\n")
    line = refused(["sample", "--text=red", *flags, f"--reference_captions={captions}"], capsys)
    assert "a grene fish" in line
    assert "did you mean green" in line


def test_check_and_export_take_a_text(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "--text=a red fish", *flags])
    shown = capsys.readouterr().out
    assert "a red fish, at 64 prior draws" in shown
    assert "text model" in shown
    few = ["--num_chains=2", "--num_steps=2", "--num_start_draws=8", "--batch_sizes=1"]
    main(["export", "--kernel=mala", "--text=a red fish", *few, *flags, "--out=served"])
    served = tf.saved_model.load("served/1").signatures["serving_default"]
    _, inputs = served.structured_input_signature
    given = {name: tf.constant(["a red fish"] if spec.dtype == tf.string else [1], spec.dtype) for name, spec in inputs.items()}
    assert served(**given)


def test_a_run_is_played_with_its_own_text_model_wherever_that_is(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is found by run.json, and known by its fingerprint; what `vary` writes is a run like any other."""
    model = standins_text.clip(tmp_path / "own")
    main(["sample", "--text=a red fish", *REJECTION, *flags[:-1], f"--text_model={model}", "--out=run"])
    main(["vary", "run", *STEP, "--out=near"])
    model.rename(tmp_path / "moved")
    capsys.readouterr()
    line = refused(["film", "run", "--chain=1", "--out=lost.gif"], capsys)
    assert "the text_model of the run on this machine" in line
    assert "give --text_model=MODEL" in line
    main(["vary", "near", *STEP, "--text_model=moved", "--out=nearer"])
    assert again(record("nearer")).command.endswith(" --text_model=moved")
    assert (record("nearer")["arguments"]["text"], record("nearer")["arguments"]["text_model"]) == ("a red fish", "moved")
    standins_text.clip(tmp_path / "other", scale=5.0)
    capsys.readouterr()
    line = refused(["film", "run", "--chain=1", "--text_model=other", "--out=c.gif"], capsys)
    assert "the text_model of the run, with scale 6.0, got 5.0; give --text_model" in line
    assert not Path("c.gif").exists()


def test_a_run_with_captions_is_played_with_the_same_ones(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = tmp_path / "own.txt"
    captions.write_text("a blue sky\na green fish\n")
    given = f"--reference_captions={captions}"
    main(["sample", "--label=goldfish", "--text=red", *REJECTION, *flags, "--out=run", given])
    main(["vary", "run", *STEP, given, "--out=near"])
    assert again(record("near")).command.endswith(given)
    posterior = load_posterior(load_run("near"), reference_captions=str(captions))
    assert posterior.label_names == ["goldfish & red"]
    captions.write_text("a blue sky\n")
    capsys.readouterr()
    assert "the reference_captions of the run" in refused(["film", "run", "--chain=0", given, "--out=a.gif"], capsys)


@pytest.mark.parametrize("command", ["vary", "morph", "film"])
def test_what_plays_a_run_takes_a_text_model(command: str) -> None:
    assert {"text_model", "reference_captions"} <= set(play_flags(command))
