"""Runs of sounds and clips: exact draws, files, resuming, the commands on them, and the sets of shipped models."""

import base64
import functools
import io
import json
import re
import shutil
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

import tfgradgen as tg
from tests.support import standins_media
from tests.support.command import refused
from tests.support.observers import save_observers
from tfgradgen.cli import compare, sample
from tfgradgen.cli.commands import main
from tfgradgen.cli.load import load_models
from tfgradgen.cli.options import parse_sample
from tfgradgen.core.checks import UserError
from tfgradgen.media.sound import PAUSE, Sound
from tfgradgen.media.video import Video
from tfgradgen.models import shipped
from tfgradgen.play import source
from tfgradgen.results.again import again

FAST = ["--num_results=4", "--num_burnin_steps=4", "--num_chains=3", "--kernel=mala"]
SETS = {"speech": "seven", "actions": "jumping_jack"}
of_each = pytest.mark.parametrize("models", SETS)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which both sets are installed, as toys."""
    root = tmp_path_factory.mktemp("clone")
    standins_media.spoken_pair(root / "saved_models" / "speech")
    standins_media.action_pair(root / "saved_models" / "actions")
    return root / "tfgradgen"


@pytest.fixture(scope="module")
def load_once(package: Path) -> Any:
    """Return `load_models` that loads a set once for all tests, so that they share its graphs; other models it loads again."""
    loaded = dict[str, Any]()

    def load(options: Any, gradient_precision: str = "float32") -> Any:
        paths, key = (options.generator, *options.classifiers), repr((options, gradient_precision))
        if not all(str(path).startswith(str(package.parent)) for path in paths):
            return load_models(options, gradient_precision)
        return loaded.get(key) or loaded.setdefault(key, load_models(options, gradient_precision))

    return load


@pytest.fixture(scope="module")
def loaders() -> list[Any]:
    """Return the functions by which the commands on a run load its models, which load each model once for all tests."""
    loaded = dict[str, Any]()

    def once(load_fn: Any) -> Any:
        @functools.wraps(load_fn)
        def load(handle: Any, **settings: Any) -> Any:
            key = repr((load_fn.__name__, str(handle), settings))
            return loaded.get(key) or loaded.setdefault(key, load_fn(handle, **settings))

        return load

    return [once(load_fn) for load_fn in (source.load_generator, source.load_classifier)]


@pytest.fixture
def installed(
    package: Path,
    load_once: Any,
    loaders: list[Any],
    sketched_plots: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    monkeypatch.setattr(shipped, "PACKAGE", package)
    for load_fn in loaders:
        monkeypatch.setattr(source, load_fn.__name__, load_fn)
    for module in (compare, sample):
        monkeypatch.setattr(module, "load_models", load_once)
    monkeypatch.chdir(tmp_path)
    return package.parent / "saved_models"


def pair_of(models: str, label: Any) -> tg.ClassPosterior:
    """Return the posterior of a set that is installed, of the models that the commands load once."""
    options = parse_sample({"label": SETS[models], "kernel": "mala", "models": models}).models
    loaded = sample.load_models(options, "float32")
    return tg.ClassPosterior(loaded.generator, loaded.classifiers[0], label)


def means(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each coordinate, and its standard error over chains, which are independent of one another."""
    of_chain = z.mean(0)
    return of_chain.mean(0), of_chain.std(0, ddof=1) / np.sqrt(len(of_chain))


@of_each
def test_hmc_has_the_means_of_exact_draws(models: str, installed: Path) -> None:
    """Four coordinates or fewer, of two kernels: beyond 4.5 standard errors once in 5e4 tests."""
    runs = {"num_chains": 64, "seed": 0}
    exact = tg.sample(pair_of(models, 0), "rejection", num_results=16, **runs)
    chains = tg.sample(pair_of(models, 0), "hmc", num_results=30, num_burnin_steps=30, **runs)
    other = tg.sample(pair_of(models, 1), "rejection", num_results=16, **runs)

    def gap(one: tg.SampleResult, two: tg.SampleResult) -> float:
        (a, da), (b, db) = means(one.z), means(two.z)
        return float(np.abs((a - b) / np.hypot(da, db)).max())

    assert gap(exact, chains) < 4.5
    assert gap(other, chains) > 9, "negative control: another class"


@of_each
def test_a_run_is_written_and_read(models: str, installed: Path, tmp_path: Path) -> None:
    label = SETS[models]
    main(["sample", f"--label={label}", f"--models={models}", *FAST, "--netcdf=false"])
    out = tmp_path / "out" / f"{models}-{label}-mala-0"
    result = tg.load_run(out)
    medium = result.medium
    assert medium == {"speech": Sound((640,), 8000.0), "actions": Video((4, 8, 8, 3), 12.5)}[models]
    files = {medium.file_name(k, 3): medium.file(result.media[k]) for k in range(3)} | {medium.joined_name: None}
    assert {*files} == {path.name for path in out.iterdir() if path.suffix in (".wav", ".gif")}
    for name, content in files.items():
        assert content in (None, (out / name).read_bytes())
    with np.load(out / "samples.npz") as arrays:
        np.testing.assert_array_equal(arrays[medium.kind], result.media)
        assert "image" not in arrays
    generator = tg.load_generator(models=models)
    assert (result.media == medium.stored(generator(result.z[-1]))).all()
    assert result.images.shape[-1] in (1, 3)
    page = (out / "report.html").read_text()
    sources = re.findall(r'src="data:(?:audio/wav|image/gif);base64,([^"]+)"', page)
    assert page.count("<audio controls") == (3 if models == "speech" else 0)
    assert [base64.b64decode(each) for each in sources] == [content for content in files.values() if content]
    assert "media-src data:" in page
    assert f"last {medium.noun} of chain 0" in page
    assert f"{medium.ending} files beside it have the {medium.plural}; grid.png and film.png have their stills" in page
    shown = result._repr_html_()
    assert ("<audio controls" in shown) == (models == "speech")
    with Picture.open(out / "grid.png") as grid:
        assert grid.width > 2 * medium.pictures(result.media).shape[2], "two tiles side by side, enlarged"
    with pytest.raises(ValueError, match="instead of"):
        medium.check_stored(result.media[:, :-1])


@of_each
def test_a_resumed_run_has_the_same_bits(models: str, installed: Path, tmp_path: Path) -> None:
    command = ["sample", f"--label={SETS[models]}", f"--models={models}", *FAST[1:]]
    main([*command, "--num_results=60", "--out=whole"])
    main([*command, "--num_results=20", "--out=parts"])
    main([*command, "--num_results=60", "--out=parts", "--resume"])
    with np.load("whole/samples.npz") as whole, np.load("parts/samples.npz") as parts:
        assert {*whole} == {*parts}
        for name in whole:
            np.testing.assert_array_equal(whole[name], parts[name])
    medium = tg.load_run("whole").medium
    assert (tmp_path / "whole" / medium.joined_name).read_bytes() == (tmp_path / "parts" / medium.joined_name).read_bytes()


@of_each
def test_what_to_do_with_a_run(models: str, installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tg.sample(pair_of(models, 0), "mala", num_results=4, num_burnin_steps=4, num_chains=3)
    result.save("run")
    ending = result.medium.ending
    main(["show", "run", "--chain=1", f"--out=one{ending}"])
    assert (tmp_path / f"one{ending}").read_bytes() == result.medium.file(result.media[1])
    main(["show", "run", "--chain=1", "--out=still.png"])
    main(["film", "run", "--chain=1", "--frames=3", "--out=film.gif"])
    main(["morph", "run", "--first=0", "--last=1", "--frames=3", "--num_steps=1", "--out=morph.gif"])
    main(["vary", "run", "--chain=1", "--num_images=2", "--num_steps=1", "--out=varied"])
    assert tg.load_run("varied").media.shape == (2, *result.media.shape[1:])
    capsys.readouterr()
    main(["diagnose", "run"])
    said = capsys.readouterr().out
    assert f"warning  {result.medium.plural}: " in said or f"ok       {result.medium.plural}: " in said
    assert "image" not in said
    others = {"speech": ending, "actions": ".gif, .webp, .mp4"}[models]
    assert f"a file that ends in .png, {others}, got" in refused(["show", "run", "--chain=0", "--out=x.txt"], capsys)


def test_clips_side_by_side_move_in_other_formats(
    installed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tg.sample(pair_of("actions", 0), "mala", num_results=4, num_burnin_steps=4, num_chains=3)
    result.save("run")
    main(["show", "run", "--out=all.webp"])
    main(["show", "run", "--chain=2", "--out=one.webp"])
    frames, height, width, _ = result.medium.shape
    for path, columns in (("all.webp", 2), ("one.webp", 1)):
        with Picture.open(path) as shown:
            assert shown.n_frames == frames
            assert shown.width >= columns * width
            assert shown.height >= columns * height
            assert shown.width < (columns + 1) * width
    capsys.readouterr()
    main(["show", "run", "--chain=2", "--scale=3", "--out=large.gif"])
    assert f"clip     chain 2 of jumping_jack, the last draw: p(class) {result.class_prob[-1, 2]:.2f}, {3 * width} x" in (
        capsys.readouterr().out
    )
    with Picture.open("large.gif") as shown:
        assert (shown.n_frames, shown.size) == (frames, (3 * width, 3 * height))
    with monkeypatch.context() as patch:
        patch.setattr("tfgradgen.play.show.MOST_SIDE", 2 * width)
        words = ["show", "run", "--chain=2", "--scale=3", "--out=too-large.gif"]
        assert "scale: expected an integer in 1..2, got 3" in refused(words, capsys)
        patch.setattr("tfgradgen.cli.play.enlarged", lambda *_: pytest.fail("frames that are not written are not enlarged"))
        main(["show", "run", "--out=stills.png"])
    capsys.readouterr()
    assert "a file that ends in .png, got" in refused(
        [
            "show",
            tg.sample(pair_of("speech", 0), "rejection", num_results=2, num_chains=2).save("sounds").name,
            "--out=all.wav",
        ],
        capsys,
    )
    words = ["show", "sounds", "--chain=0", "--scale=3", "--out=one.wav"]
    assert "scale: expected a picture, which can be enlarged, got a file of a sound" in refused(words, capsys)


def test_all_labels_share_a_sheet_of_spectrograms(installed: Path, tmp_path: Path) -> None:
    main(["sample", "--label=all", "--models=speech", *FAST])
    out = tmp_path / "out" / "speech-all-mala-0"
    assert {path.name for path in out.iterdir()} == {"seven", "eight", "nine", "sheet.png"}, "noise is the background"


@of_each
def test_an_explicit_model_overrides_that_of_the_set(models: str, installed: Path, tmp_path: Path) -> None:
    shutil.copytree(installed / models / "generator", tmp_path / "mine")
    few = ["--kernel=rejection", "--num_results=2", "--num_chains=2"]
    main(["sample", f"--label={SETS[models]}", f"--models={models}", "--generator=mine", *few, "--out=run"])
    record = json.loads(Path("run/run.json").read_text())
    assert (record["generator"]["path"], record["classifier"]["path"]) == ("mine", str(installed / models / "classifier"))
    assert "--generator=mine" in again(record).command


@of_each
def test_the_command_that_makes_a_run_again_names_its_set(models: str, installed: Path) -> None:
    main(["sample", f"--label={SETS[models]}", f"--models={models}", *FAST, "--out=run"])
    command = again(json.loads(Path("run/run.json").read_text())).command
    assert f"--models={models}" in command
    assert "--generator" not in command
    main(["sample", "--like=run", "--out=like"])
    np.testing.assert_array_equal(tg.load_run("run").media, tg.load_run("like").media)


def test_sets_of_models_in_lists(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["labels", "--models=actions"])
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["jumping_jack", "bend", "other"]
    main(["models", "--models=actions"])
    assert "frame_rate: 12.5" in capsys.readouterr().out


def test_a_set_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "tfgradgen")
    for command in (["sample", "--label=seven"], ["labels"], ["check"]):
        assert "a set of models that is installed, got speech, whose" in refused([*command, "--models=speech"], capsys)
    assert "models: expected one of photographs, speech, actions, got 'music'" in refused(["check", "--models=music"], capsys)
    with pytest.raises(UserError, match="whose generator is missing"):
        tg.load_generator(models="speech")
    with pytest.raises(UserError, match="a set with a discriminator: photographs, got speech"):
        shipped.shipped_model("discriminator", "speech")


def test_methods_are_compared_by_what_a_judge_hears(
    installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--kernels=mala,rejection", "--num_chains=5", "--num_gradients=10"]
    main(["compare", "--labels=seven,nine", "--models=speech", *few, "--out=compared"])
    report = json.loads((tmp_path / "compared" / "report.json").read_text())
    values = report["rows"]["rejection"]["values"]
    assert {"judge_accuracy", "log_spectral_distance", "vendi"} <= {*values}
    assert not {"log_natural", "ms_ssim", "kid"} & {*values}
    page = (tmp_path / "compared" / "report.md").read_text()
    none = "there are no recorded sounds to compare with"
    assert f"without  KID, FID, density, coverage, repeats: {none}" in capsys.readouterr().out
    assert "Left out: log p(natural) (these models have no discriminator); KID, FID, density, coverage, repeats (" in page
    assert "photograph" not in page
    assert "image" not in page.lower()
    files = sorted(path.name for path in (tmp_path / "compared" / "pictures" / "prior").iterdir())
    assert files[:3] == ["0000_seven.wav", "0000_seven_0000.png", "0000_seven_0000.wav"]
    assert len(files) == 2 * (2 * 5 + 1)
    assert "\n| `rejection` | [play](pictures/rejection/0000_seven.wav) | [play](pictures/rejection/0001_nine.wav) |\n" in page
    together = (tmp_path / "compared" / "pictures" / "rejection" / "0000_seven.wav").read_bytes()
    with wave.open(io.BytesIO(together)) as sound:
        assert sound.getnframes() == 4 * (640 + round(8000 * PAUSE)), "the four chains of a tile of grids.png"
    html = (tmp_path / "compared" / "report.html").read_text()
    assert html.count("<audio ") == 3 * 2
    assert f'aria-label="rejection, seven" src="data:audio/wav;base64,{base64.b64encode(together).decode()}"' in html
    last = tmp_path / "compared" / "pictures" / "rejection" / "0000_seven_0000.wav"
    with wave.open(str(last)) as sound:
        assert (sound.getframerate(), sound.getnframes()) == (8000, 640)
    assert "MS-SSIM" not in page
    assert "The poster's claim" not in page
    assert report["command"] == (
        "python -m tfgradgen compare --labels=seven,nine --kernels=mala,rejection --num_gradients=10 --class_reg=1.0 "
        "--num_chains=5 --seed=0 --init=resample --models=speech"
    )


def test_photographs_of_sounds_are_refused_before_a_draw(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photographs").mkdir()
    monkeypatch.setattr(sample, "run_group", lambda *args: pytest.fail("it draws"))
    said = "photographs: expected a generator of images, got one of sounds; leave --photographs out"
    words = ["--models=speech", "--photographs=photographs", "--out=out"]
    assert said in refused(["sample", "--label=seven", *words], capsys)
    assert said in refused(["compare", "--labels=seven", *words], capsys)
    assert not Path("out").exists()
    result = tg.sample(pair_of("speech", 0), "rejection", num_results=2, num_chains=2)
    with pytest.raises(UserError, match="got one of sounds"):
        tg.nearest_photographs(result, "photographs", shipped.default_model("judge", "speech"))


def test_a_judge_or_a_discriminator_of_another_medium_is_named(
    installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in save_observers(tmp_path):
        name = flag[2:].partition("=")[0]
        said = refused(["compare", "--labels=seven", "--models=speech", "--out=compared", flag], capsys)
        assert f"{name}: expected a network of sounds, as the generator makes them, got one of images; give --{name}=" in said
    assert not (tmp_path / "compared").exists()


def test_own_models_of_sounds_are_compared_without_the_shipped_discriminator(
    package: Path, sketched_plots: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own = [f"--{role}={package.parent / 'saved_models' / 'speech' / role}" for role in ("generator", "classifier", "judge")]
    few = ["--labels=seven", "--kernels=rejection", "--num_chains=5", "--num_gradients=10", "--out=compared"]
    main(["compare", *own, *few])
    assert "without  log p(natural): the shipped discriminator knows images, no sounds" in capsys.readouterr().out
    report = json.loads(Path("compared/report.json").read_text())
    assert report["record"]["arguments"]["discriminator"] is None
    assert "discriminator" not in report["record"]


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["medium"].update(kind="image"),
        lambda record: record["medium"].update(shape=[641]),
        lambda record: record["medium"].update(rate=-1),
        lambda record: record.update(medium=7),
        lambda record: record.pop("medium"),
    ],
)
def test_a_run_with_another_medium_than_it_stores_is_refused(change: Any, installed: Path) -> None:
    tg.sample(pair_of("speech", 0), "rejection", num_results=2, num_chains=2).save("run")
    record = json.loads(Path("run/run.json").read_text())
    change(record)
    Path("run/run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="load_run: expected") as error:
        tg.load_run("run")
    assert "\n" not in str(error.value)
