"""The command line with models of others: conditions, photographs, discriminators, memory, trust."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfgradgen as tg
from tests.support import standins, toy
from tests.support.command import FAST, refused, with_flags
from tfgradgen.cli import sample
from tfgradgen.cli.commands import main
from tfgradgen.cli.load import load_models
from tfgradgen.cli.options import parse_sample
from tfgradgen.cli.sample import choose_folders
from tfgradgen.core.checks import UserError
from tfgradgen.diagnostics import model_checks
from tfgradgen.diagnostics.prior_checks import NUM_FORWARD
from tfgradgen.io.folders import check_partial
from tfgradgen.mcmc import pool
from tfgradgen.mcmc.projection import read_photograph
from tfgradgen.models.classifier import load_classifier
from tfgradgen.models.generator import load_generator
from tfgradgen.posterior import ClassPosterior
from tfgradgen.results import origin
from tfgradgen.results.again import again

pytestmark = pytest.mark.usefixtures("quick_runs")

BIGBIGAN = "https://tfhub.dev/deepmind/bigbigan-resnet50/1"
INCEPTION = "https://tfhub.dev/google/imagenet/inception_v3/classification/5"
REJECTION = ["--kernel=rejection", *FAST[::2]]
FEW = ["--kernel=mala", "--num_chains=3", "--num_results=3", "--num_burnin_steps=2", "--init=prior"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    for handle in (BIGBIGAN, INCEPTION):
        standins.cached_copy(handle, folder)
    return folder


@pytest.fixture
def hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_models: set[str]) -> list[str]:
    """Return flags that name a cached pair; the working folder is empty.

    Images have a quarter of the size that the classifier asks for, because large convolutions are slow, above all with XLA.
    """
    shared_models |= {BIGBIGAN, INCEPTION}
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(cache))
    monkeypatch.chdir(tmp_path)
    return [f"--generator={BIGBIGAN}", f"--classifier={INCEPTION}", "--classifier_size=75"]


def record(folder: str) -> dict[str, Any]:
    return json.loads(Path(folder, "run.json").read_text())


def z_of(folder: str) -> np.ndarray:
    with np.load(Path(folder, "samples.npz")) as samples:
        return samples["z"]


def test_a_condition_is_sampled_exactly(toy_flags: list[str]) -> None:
    """Rejection accepts with the prior mean of p(goldfish) (1 - p(alp)); for a plain class the rate differs."""
    rates = {}
    for out, label in (("plain", "goldfish"), ("composed", "goldfish & !alp")):
        main(
            [
                "sample",
                f"--label={label}",
                "--kernel=rejection",
                "--num_results=300",
                "--num_chains=4",
                f"--out={out}",
                *toy_flags,
            ]
        )
        rates[out] = record(out)["accept_rate"]
    posterior = parsed_posterior(toy_flags, "goldfish")
    logits = posterior.class_logits(posterior.sample_prior(20_000, tf.constant([3, 4])))
    prob = tf.nn.softmax(logits).numpy()
    truth = {"plain": prob[:, 0].mean(), "composed": (prob[:, 0] * (1 - prob[:, 2])).mean()}
    for out, rate in rates.items():
        error = np.sqrt(truth[out] * (1 - truth[out]) / (1200 / truth[out]))
        assert abs(rate - truth[out]) < 5 * error
    assert abs(truth["plain"] - truth["composed"]) > 8 * error, "the two could be distinguished"
    assert record("composed")["label"]["name"] == "goldfish & !alp"


def parsed_posterior(flags: list[str], label: Any, **more: Any) -> ClassPosterior:
    given = dict(flag.lstrip("-").split("=", 1) for flag in flags)
    settings = {name: int(text) if text.isdigit() else text for name, text in given.items()}
    options = parse_sample({"label": label, "kernel": "mala", **settings, **more})
    loaded = sample.load_models(options.models)  # what the commands have loaded
    (target,) = loaded.targets(label)
    return ClassPosterior.of(loaded.networks(target), target.index)


def test_two_classifiers_compose(toy_flags: list[str], toy_pair: tuple[Path, Path]) -> None:
    both = [toy_flags[0], f"--classifier={toy_pair[1]},{toy_pair[1]}"]
    z = tf.random.stateless_normal([5, 6], [1, 2])
    one, two = parsed_posterior(toy_flags, "goldfish"), parsed_posterior(both, "goldfish & king_penguin@2")
    other = parsed_posterior(toy_flags, "king_penguin")
    np.testing.assert_allclose(two.class_log_prob(z), one.class_log_prob(z) + other.class_log_prob(z), rtol=1e-4)
    main(["sample", "--label=goldfish & king_penguin@2, alp", *REJECTION, *both, "--out=two"])
    assert {path.name for path in Path("two").iterdir()} == {"goldfish_king_penguin_2", "alp", "sheet.png"}


def test_a_condition_of_any_length_finds_a_folder(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    label = " | ".join(["goldfish & !alp"] * 8)
    main(["sample", f"--label={label}", *REJECTION, *toy_flags])
    (folder,) = Path("out").iterdir()
    assert folder.name.startswith("goldfish_not_alp_or_goldfish_not_alp")
    assert record(str(folder))["label"]["name"].startswith("goldfish & !alp | ")
    names = [f"{label} | {k}" for k in range(3)]
    folders = choose_folders(parse_sample({"label": 0, "kernel": "mala"}), names, False)
    for folder in folders:
        check_partial(folder, False)
    assert len(set(folders)) == 3
    capsys.readouterr()
    assert "names of at most" in refused(["sample", "--label=alp", *toy_flags, f"--out=new/{'x' * 300}"], capsys)
    assert not Path("new").exists()


def test_errors_of_conditions_and_models_are_one_line(
    toy_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, text in (
        (["--label=goldfish & !"], "a class name"),
        (["--label=goldfish & pengin"], "did you mean king_penguin"),
        (["--label=goldfish@2"], "a classifier's number, 1, as there is one"),
        (["--label=goldfish", "--generator_class=uniform"], "takes no class"),
        (["--label=goldfish", "--generator_signature=x"], "one of the model's signatures"),
        (["--label=goldfish", "--generator_range=1,0"], "two finite numbers"),
        (["--label=goldfish", "--max_batch=0"], "max_batch"),
        (["--label=goldfish", "--discriminator=x"], "a --discriminator_weight above 0"),
        (["--label=goldfish", "--init=photo.jpg"], "the file of an image"),
        (["--label=goldfish", "--init=~nobody-of-that-name/x"], "the file of an image"),
        (["--label=goldfish", f"--init={'x' * 5000}"], "the file of an image"),
        (["--label=goldfish", "--classifier_size=big"], "two positive integers"),
        (["--label=goldfish", "--classifier_labels=none.txt"], "a file with one name per line"),
    ):
        assert text in refused(["sample", *flags, *toy_flags], capsys)
    both = next(flag for flag in toy_flags if flag.startswith("--classifier"))
    both += "," + both.removeprefix("--classifier=")
    said = refused(["sample", "--label=goldfish", toy_flags[0], both, "--classifier_range=0,1"], capsys)
    assert "classifier_range: expected one classifier, got 2 of them" in said
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_a_discriminator_enters_the_target(hub: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The target is log prior + log p(class) + weight * log-odds. Methods that need a probability refuse it."""
    more = {"discriminator": BIGBIGAN, "discriminator_weight": 0.5}
    plain, driven = parsed_posterior(hub, "goldfish"), parsed_posterior(hub, "goldfish", **more)
    z = tf.random.stateless_normal([3, 120], [1, 2])
    score = driven.networks.discriminator(plain.generator(z))
    assert np.ptp(score) > 0
    np.testing.assert_allclose(
        driven.unnormalized_log_prob(z), plain.unnormalized_log_prob(z) + 0.5 * score, rtol=1e-5, atol=1e-4
    )
    np.testing.assert_allclose(
        driven.class_prob_of(z, driven.unnormalized_log_prob(z)), tf.exp(plain.class_log_prob(z)), rtol=1e-3
    )
    flags = [f"--discriminator={BIGBIGAN}", "--discriminator_weight=0.5"]
    main(["sample", "--label=goldfish", *FEW, *hub, *flags, "--out=driven"])
    found = record("driven")
    assert found["discriminator"]["signature"] == "discriminate"
    assert found["num_forward"] == 3 + NUM_FORWARD + 3 * 5, "starts, the checks before the run, and p(class) of each step"
    capsys.readouterr()
    said = refused(["sample", "--label=goldfish", "--kernel=rejection", *hub, *flags], capsys)
    assert "a flag that --kernel=rejection uses, got --discriminator_weight" in said


def test_chains_start_at_a_photograph(hub: list[str]) -> None:
    generator = parsed_posterior(hub, "goldfish").generator
    z = tf.random.stateless_normal([1, 120], [5, 6])
    Image.fromarray(np.uint8(np.clip(127.5 * (generator(z)[0] + 1), 0, 255))).save("photo.png")
    main(["sample", "--label=goldfish", *FEW[:-1], *hub, "--init=photo.png", "--step_size=0.001", "--out=at"])
    assert all(np.corrcoef(start, z[0])[0, 1] > 0.9 for start in z_of("at")[0]), "the encoder's way back"
    assert record("at")["arguments"]["init_photograph"] == "photo.png"
    assert len(record("at")["arguments"]["init_z"]) == 120
    found = record("at")["projection"]
    assert found["by"] == "encoder"
    assert found["pixel_rmse"] < 0.5 * found["prior_pixel_rmse"]


def test_a_photograph_that_cannot_be_read_is_one_line(hub: list[str]) -> None:
    Image.new("RGB", (8, 8)).save("whole.png")
    whole = Path("whole.png").read_bytes()
    contents = {
        "text": b"no image",
        "cut": whole[: len(whole) // 2],
        "huge": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)),
        "header": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\0\0"),
    }
    generator = parsed_posterior(hub, "goldfish").generator
    for name, content in contents.items():
        Path(f"{name}.png").write_bytes(content)
        with pytest.raises(UserError, match=rf"image {name}\.png: expected an image that can be read, got "):
            read_photograph(generator, Path(f"{name}.png"))


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_the_command_and_python_start_at_the_same_photograph(
    toy_flags: list[str], toy_pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (8, 8, 3), np.uint8)).save("photo.png")
    main(["sample", "--label=goldfish", "--kernel=mala", *FAST, *toy_flags, "--init=photo.png", "--out=at"])
    out, err = capsys.readouterr()
    line = "nearest  image to photo.png, by optimization, at which all chains start: pixels differ by 0."
    assert line in out
    assert line in err, "before the chains run, too"
    posterior = ClassPosterior(load_generator(toy_pair[0]), load_classifier(toy_pair[1]), label=0)
    counts = {"num_results": 4, "num_burnin_steps": 4, "num_chains": 3}
    result = tg.sample(posterior, "mala", init="photo.png", **counts)
    np.testing.assert_array_equal(result.z, z_of("at"))
    assert result.record["projection"] == record("at")["projection"]
    assert "--init=photo.png" in again(result.record).command
    with pytest.raises(UserError, match=r"init: expected 'resample', .* or the file of an image, got 'nowhere.png'"):
        tg.sample(posterior, "mala", init="nowhere.png", **counts)
    assert "a flag that --kernel=rejection uses" in refused(
        ["sample", "--label=goldfish", "--kernel=rejection", *toy_flags, "--init=photo.png"], capsys
    )


def test_a_run_is_repeated_at_the_photograph_that_it_started_at_and_no_other(
    toy_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (2, 8, 8, 3), np.uint8)
    Image.fromarray(pixels[0]).save("photo.png")
    command = ["sample", "--label=goldfish", "--kernel=mala", *FAST, *toy_flags, "--init=photo.png", "--out=at"]
    main(command)
    main(["sample", "--like=at", "--out=like"])
    np.testing.assert_array_equal(z_of("like"), z_of("at"))
    Image.fromarray(pixels[1]).save("photo.png")
    expected = "like: expected the photograph at which the chains of that run start in photo.png, got "
    elsewhere = ["sample", "--like=at", "--out=other"]
    capsys.readouterr()
    assert f"{expected}another one; put it back, or give --init=FILE" in refused(elsewhere, capsys)
    said = refused(with_flags(command, "--num_results=9", "--resume"), capsys)
    assert "resume: expected the photograph of --init at which at starts, got another start; give the same photograph" in said
    main([*elsewhere, "--init=photo.png"])
    assert (z_of("other") != z_of("at")).any()
    capsys.readouterr()
    Path("photo.png").unlink()
    assert f"{expected}none" in refused(["sample", "--like=at", "--out=gone"], capsys)
    made = json.loads(Path("at/run.json").read_text())
    del made["projection"]["sha256"]  # of an earlier version
    Path("at/run.json").write_text(json.dumps(made))
    Image.fromarray(pixels[0]).save("photo.png")
    assert f"{expected}one that the run has no checksum of" in refused(["sample", "--like=at", "--out=gone"], capsys)


def test_max_batch_changes_no_result(toy_flags: list[str]) -> None:
    """Chains of 24 transitions agree up to rounding, which longer, chaotic chains would amplify."""
    for out, flags in (("whole", []), ("parts", ["--max_batch=2"])):
        main(["sample", "--label=goldfish", "--kernel=mala", *FAST, *toy_flags, *flags, f"--out={out}"])
    np.testing.assert_allclose(z_of("parts"), z_of("whole"), rtol=1e-4, atol=1e-5)
    assert record("parts")["arguments"]["max_batch"] == 2


def test_a_hostile_model_runs_nothing_unless_trusted(
    toy_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "written"

    def write(z: tf.Tensor) -> tf.Tensor:
        tf.io.write_file(str(target), "harm")
        return tf.tanh(tf.reshape(tf.tile(z, [1, 32]), [-1, 8, 8, 3]))

    folder = toy.save(tmp_path / "hostile", write, [None, 6], {"image_range": [-1, 1], "prior": "normal"})
    command = ["sample", "--label=goldfish", "--kernel=mala", *FAST, f"--generator={folder}", toy_flags[1], "--out=run"]
    said = refused(command, capsys)
    assert "WriteFile" in said
    assert "--allow_unknown_ops" in said
    assert not target.exists()
    assert "--trust is now --allow_unknown_ops" in refused([*command, "--trust"], capsys)
    with pytest.raises(UserError, match="trust is now allow_unknown_ops"):
        load_generator(folder, trust=True)
    main([*command, "--allow_unknown_ops"])
    assert target.exists(), "the model does what it was built for"
    assert record("run")["arguments"]["allow_unknown_ops"] is True


def test_where_xla_cannot_compile_a_run_goes_on_in_graph_mode(
    toy_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """This imitates a machine with a GPU, where XLA is used. XLA has no kernel for the gradient of a bicubic resize."""
    resized = lambda z: tf.tanh(tf.image.resize(tf.reshape(z, [-1, 1, 2, 3]), [8, 8], "bicubic"))  # noqa: E731
    folder = toy.save(tmp_path / "bicubic", resized, [None, 6], {"image_range": [-1, 1], "prior": "normal"})
    command = ["--label=goldfish", f"--generator={folder}", toy_flags[1]]
    main(["check", *command])
    assert "  no     xla          " in capsys.readouterr().out, "no failure: there is graph mode"
    said = refused(["sample", *command, "--kernel=mala", *FAST, "--jit=true"], capsys)
    assert "no compilation (no kernel for" in said
    for module in (model_checks, origin, pool):
        monkeypatch.setattr(module, "use_xla", lambda jit: jit in ("auto", True))
    main(["sample", *command, "--kernel=mala", *FAST, "--out=run"])
    assert "graph    mode, without XLA: no compilation" in capsys.readouterr().err
    assert record("run")["backend"] == "graph"
    for kernel in ("auto", "rejection", "elliptical_slice"):
        main(["sample", *command, f"--kernel={kernel}", "--num_chains=2", "--num_results=4", f"--out={kernel}"])
        assert capsys.readouterr().err.count("graph    mode, without XLA: no compilation") == 1
        assert record(kernel)["backend"] == "graph"
    main(["sample", "--label=goldfish", *toy_flags, "--kernel=mala", *FAST, "--out=compiled"])
    assert "graph    mode" not in capsys.readouterr().err, "where XLA can, it does"


def test_check_says_what_was_found_and_what_it_costs(hub: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", *hub])
    out = capsys.readouterr().out
    assert out.count(", at 64 prior draws, of gradients at 16") == 4, "and not a thousand times"
    for text in (
        "labels      4 of 1000, for --label names none",
        "tench, at 64 prior draws, of gradients at 16",
        f"generator   {BIGBIGAN}\n            takes generate\n            signatures default (x float32 [?, 256, 256, 3]) -> ",
        "z 120 (prior normal) -> image 128 x 128 x 3 in [-1, 1], with an encoder",
        "image 75 x 75 in [0, 1] -> logits of 1001 classes",
        "ok     gradient     its norm, with respect to z: ",
        "a gradient in graph mode on /device:CPU:0",
        "    1 chain : ",
        "   64 chains: ",
        " chains fit into the ",
    ):
        assert text in out, text


def test_guesses_are_said_with_the_flags_that_mend_them(toy_pair: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    images_of = lambda z: tf.tanh(tf.reshape(tf.tile(z, [1, 32]), [-1, 8, 8, 3]))  # noqa: E731
    folder = toy.save(tmp_path / "silent", images_of, [None, 6])
    options = parse_sample({"label": "goldfish", "kernel": "mala", "generator": str(folder), "classifier": str(toy_pair[1])})
    load_models(options.models)
    said = capsys.readouterr().err
    assert f"guessed  generator {folder}: prior normal (--generator_prior), image_range (-1.0, 1.0) (--generator_range)" in said
    assert "guessed  classifier" not in said, "all of it is in the card"


def test_labels_of_a_hub_model_are_listed(hub: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["labels", hub[1]])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1001
    assert lines[2].split() == ["2", "n01443537", "goldfish"]
    classifier = load_classifier(INCEPTION)
    assert (len(classifier.labels), classifier.image_size) == (1001, (299, 299))
