"""Wrong input of the training tools is one line that names the file."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support import toy
from tests.support.tooling import tool
from tfgradgen.core.checks import UserError
from tools.command import run
from tools.train import clips, label_draws, photographs, sounds, train_actions, train_classifier, train_generator


def said(main: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """Return the one line with which a tool ends."""
    monkeypatch.setattr("sys.argv", ["some_tool.py", *words])
    with pytest.raises(SystemExit) as ended:
        run(main)
    line = str(ended.value)
    assert "\n" not in line
    return line


def image(path: Path, size: tuple[int, int] = (64, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def test_errors_of_input_are_one_line_and_faults_of_the_tool_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(lambda path: Path(path).read_text(), monkeypatch, "nowhere") == "some_tool: No such file or directory: nowhere"
    with pytest.raises(ZeroDivisionError):
        run(lambda path: 1 / 0)


def test_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        image(tmp_path / "data" / split / "cat" / "1.JPEG")
    flags = ["--work=work", "--data=data"]
    assert "epochs: expected an integer" in said(train_classifier.main, monkeypatch, *flags, "--epochs=-3")
    assert "No such file or directory: labels.json" not in said(
        train_classifier.main, monkeypatch, *flags, "--labels=labels.json"
    )
    for text in ("{", '["cat"]', "{}", '[{"name": 3}]'):
        Path("labels.json").write_text(text)
        line = said(train_classifier.main, monkeypatch, *flags, "--labels=labels.json")
        assert line.startswith("some_tool: labels.json: expected a list of {name, wnid, synset}, got ")
    flags.append("--features=none.npz")
    assert "images: expected an integer" in said(train_generator.main, monkeypatch, *flags, "--images=-16000")
    Path("file").touch()
    assert "File exists: file" in said(train_classifier.main, monkeypatch, "--work=file", "--data=data")
    Path("data/train/cat/2.JPEG").write_text("no image")
    assert "2.JPEG" in said(train_classifier.main, monkeypatch, *flags[:2], "--epochs=1")


def test_archives(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "whole.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("train/cat/1.JPEG"), io.BytesIO(b""))
        content = tarfile.TarInfo("train/cat/2.JPEG")
        content.size = 3000
        archive.addfile(content, io.BytesIO(bytes(3000)))
    (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:2000])
    (tmp_path / "noise.tar").write_bytes(b"noise" * 1000)
    for name in ("cut.tar", "noise.tar"):
        with pytest.raises(UserError, match=rf"{name}: expected a folder or \.tar of photographs"):
            photographs.as_folder(tmp_path / name)
        with pytest.raises(UserError, match=rf"{name}: expected a folder or \.tar of strips"):
            list(clips.files(tmp_path / name))


def test_strips_and_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    action = clips.ACTIONS[0]
    image(tmp_path / "data" / "train" / action / "a.jpg", (64 * 20, 64))
    Path("data/train", action, "b.jpg").write_text("no image")
    assert f"train/{action}/b.jpg: expected an image, got " in said(
        train_actions.main, monkeypatch, "--data=data", "--work=work"
    )
    assert "share: expected a number above 0" in said(
        train_actions.main, monkeypatch, "--data=data", "--work=work", "--share=-1"
    )
    assert "nowhere: expected a folder or .tar of strips" in said(
        train_actions.main, monkeypatch, "--data=nowhere", "--work=work"
    )
    Path("a.wav").write_text("no sound at all, but some text")
    with pytest.raises(UserError, match=r"a\.wav: expected a WAV file, got "):
        sounds.read(Path("a.wav"))


def test_draws_of_other_models_are_not_reused(toy_pair: tuple[Path, Path], tmp_path: Path) -> None:
    generator, teacher = toy_pair
    other = toy.save(tmp_path / "other", lambda z: z, [None, 6])
    draws = tmp_path / "draws"
    for _ in range(2):
        label_draws.claim(draws, generator, teacher)
    (draws / "prior" / "00000").mkdir(parents=True)
    label_draws.claim(draws, generator, teacher)
    for models in ((other, teacher), (generator, other), (generator, teacher, 96)):
        with pytest.raises(SystemExit, match=r"expected draws of .* got others; give another folder"):
            label_draws.claim(draws, *models)
    (draws / "models.json").unlink()
    with pytest.raises(SystemExit, match="got others"):
        label_draws.claim(draws, generator, teacher)
    with pytest.raises(UserError, match="nowhere: expected a readable file of the model"):
        label_draws.claim(tmp_path / "new", "nowhere", teacher)


def test_checkpoints_of_other_networks_are_refused_in_one_line_and_nothing_is_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, path = tool("clip_training"), tmp_path / "teacher.npz"
    variables = [tf.Variable(tf.ones([2, 3])), tf.Variable(1.0)]
    training.save(path, variables)
    kept = path.read_bytes()
    other = [tf.Variable(tf.zeros([2, 3])), tf.Variable(0.0)]
    training.restore(path, other)
    assert [float(tf.reduce_sum(each)) for each in other] == [6.0, 1.0]
    for wrong in ([tf.Variable(tf.ones([2, 4])), tf.Variable(1.0)], variables[:1]):
        with pytest.raises(UserError, match=r"checkpoints of networks of this size, got others in .*; give their width"):
            training.restore(path, wrong)

    def full(file: Any, *arrays: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        training.save(path, variables)
    assert [entry.name for entry in tmp_path.iterdir()] == ["teacher.npz"]
    assert path.read_bytes() == kept
    for damaged in (kept[:-30], b""):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"got damaged .*teacher.npz; delete it"):
            training.restore(path, other)
