"""The nearest photograph of each image: found, recorded, shown, kept, and requested by the command."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfgradgen as tg
from tests.support.command import FAST, refused
from tests.support.pages import Parsed, check_names, pixels_of
from tfgradgen.cli.commands import main
from tfgradgen.cli.like import with_like
from tfgradgen.core.checks import UserError
from tfgradgen.evaluation import nearest
from tfgradgen.evaluation.nearest import Gallery, nearest_photographs
from tfgradgen.results.again import again

pytestmark = pytest.mark.usefixtures("quick_runs")


class Judge:
    """A judge whose features are the pixels and a constant, so that no image has zero features."""

    path, sha256 = "judge", "1" * 64

    def __init__(self) -> None:
        def see(image: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"features": tf.concat([tf.reshape(image, [len(image), -1]), tf.ones([len(image), 1])], 1)}

        self.module = SimpleNamespace(signatures={"features": see})

    def as_input(self, image: tf.Tensor) -> tf.Tensor:
        return image


COMMAND = ["sample", "--label=goldfish", "--kernel=mala", "--seed=3", *FAST]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "load_as", lambda *_: Judge())


@pytest.fixture
def ran(toy_flags: list[str], tmp_path: Path) -> Path:
    """Return a run; photos/ has eight photographs of noise and a copy of the image of chain 1."""
    main([*COMMAND, *toy_flags, "--out=run"])
    folder, rng = tmp_path / "photos" / "train" / "goldfish", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for k in range(8):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{k}.png")
    Image.fromarray(tg.load_run("run").images[1]).save(folder / "copy.png")
    return tmp_path / "run"


def test_a_copy_is_found_and_the_rest_is_not(ran: Path) -> None:
    judge: Any = Judge()
    result = nearest_photographs(tg.load_run(ran), "photos", judge)
    found = result.record["nearest_photographs"]
    assert found["tiles"][1]["photograph"] == "train/goldfish/copy.png"
    assert found["tiles"][1]["distance"] == pytest.approx(0, abs=1e-6)
    assert min(found["tiles"][k]["distance"] for k in (0, 2)) > 0.01
    assert (found["num_photographs"], found["is_class"], found["judge"]) == (9, True, judge.sha256)
    np.testing.assert_array_equal(result.photographs[1], result.images[1])
    with Image.open(f"photos/{found['tiles'][0]['photograph']}") as image:
        np.testing.assert_array_equal(result.photographs[0], np.asarray(image))
    # The reference: the distance of each photograph to the nearest other one, by brute force.
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(Path("photos/train/goldfish").iterdir())])
    rows = np.concatenate([images.reshape(9, -1) / 127.5 - 1, np.ones((9, 1))], 1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    between = 1 - (rows @ rows.T - 3 * np.eye(9)).max(1)
    assert found["median"] == pytest.approx(np.median(between), abs=1e-5)
    assert found["low"] == pytest.approx(np.quantile(between, 0.05), abs=1e-5)
    assert found["num_near"] == sum(tile["distance"] < found["low"] for tile in found["tiles"]) >= 1
    assert f"so are {found['num_near']} of 3 images" in result.summary()


def test_the_page_and_the_files_have_them_and_can_be_read_again(ran: Path) -> None:
    judge: Any = Judge()
    made = nearest_photographs(tg.load_run(ran), "photos", judge)
    assert "nearest_photographs" not in tg.load_run(ran).record
    made.save("new")
    page = Parsed(Path("new/report.html").read_text())
    check_names(page)
    for k in range(3):
        (shown,) = page.all("img", alt=f"photograph nearest to the image of chain {k}")
        np.testing.assert_array_equal(pixels_of(shown.attributes["src"]), made.photographs[k])
    back = tg.load_run("new")
    np.testing.assert_array_equal(back.photographs, made.photographs)
    back.save("copy")
    assert Path("copy/report.html").read_bytes() == Path("new/report.html").read_bytes()
    assert "Nearest photograph" not in (ran / "report.html").read_text()
    record = json.loads(Path("new/run.json").read_text())
    record["nearest_photographs"]["tiles"].pop()
    Path("new/run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"the photographs that its run\.json lists"):
        tg.load_run("new")


@pytest.mark.usefixtures("judged")
def test_the_command_gives_the_same_and_resume_adds_them(
    ran: Path, toy_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    judge: Any = Judge()
    main([*COMMAND, *toy_flags, "--photographs=photos", "--out=direct"])
    assert "nearest  photographs: 0.000 to 0." in capsys.readouterr().out
    main([*COMMAND, *toy_flags, "--photographs=photos", "--out=run", "--resume"])
    assert "kept     run" in capsys.readouterr().out
    direct, added = tg.load_run("direct"), tg.load_run("run")
    for result in (added, nearest_photographs(direct, "photos", judge)):
        assert result.record["nearest_photographs"] == direct.record["nearest_photographs"]
        np.testing.assert_array_equal(result.photographs, direct.photographs)
    assert (ran / "checkpoint.npz").exists(), "what was there stays"
    assert "--photographs=photos" in again(direct.record).command
    taken = with_like({}, Path("direct"), ())
    assert "photographs" not in taken, "a run from outside has no file read"
    assert "without --photographs" in capsys.readouterr().err


def test_what_cannot_be_compared_is_one_line(
    ran: Path, toy_flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge: Any = Judge()
    assert "photographs: expected a folder or .tar, got nowhere" in refused(
        [*COMMAND, *toy_flags, "--photographs=nowhere", "--out=x"], capsys
    )
    shutil.rmtree("photos/train/goldfish")
    expected = (
        r"photographs: expected 2 to 20,000 JPEG or PNG files for goldfish, got 0 in photos, which has no folder goldfish"
    )
    with pytest.raises(UserError, match=expected):
        nearest_photographs(tg.load_run(ran), "photos", judge)
    blind: Any = SimpleNamespace(module=None, path="judge")
    with pytest.raises(UserError, match="judge: expected a SavedModel with a signature 'features'"):
        Gallery("photos", blind)


@pytest.mark.usefixtures("judged")
def test_photographs_are_read_before_the_run(ran: Path, toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = [*COMMAND, *toy_flags, "--photographs=photos", "--out=late"]
    broken = next(Path("photos/train/goldfish").iterdir())
    whole = broken.read_bytes()
    broken.write_bytes(b"no image")
    assert f"image {broken}: expected an image that can be read" in refused(command, capsys)
    assert not Path("late.partial").exists(), "nothing was drawn"
    broken.write_bytes(whole)
    Path("photos/train/goldfish").rename("photos/train/other")
    main(command)
    assert "photos has no folder for goldfish: all photographs are compared" in capsys.readouterr().err
