"""The tools that train on film strips: reading, windows, spoiled clips, and the whole training at a tiny size."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support.tooling import tool

LENGTH = 50


def save_strips(folder: Path) -> None:
    """Save a strip for each action and split: frame t is grey with the value 5 t + action, which identifies windows."""
    for split in ("train", "val"):
        for number, action in enumerate(tool("clips").ACTIONS):
            values = np.repeat(5 * np.arange(LENGTH) + number, 64).astype("uint8")
            (folder / split / action).mkdir(parents=True)
            Image.fromarray(np.broadcast_to(values[None, :, None], (64, 64 * LENGTH, 3)).copy()).save(
                folder / split / action / "00.png"
            )


@pytest.fixture
def eagerly() -> Iterator[None]:
    """Run steps of training eagerly, because tracing would take most of the time of a few steps."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def test_windows_are_every_third_frame_of_a_folder_or_a_tar(tmp_path: Path) -> None:
    clips = tool("clips")
    save_strips(tmp_path / "data")
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        archive.add(tmp_path / "data", "data")
    for data in (tmp_path / "data", tmp_path / "data.tar"):
        windows = clips.Windows(clips.load(data, "train"))
        pixels, labels = windows.batch(8, 0, 0)
        values = pixels[:, :, 0, 0, 0].astype(int)
        np.testing.assert_array_equal(np.bincount(labels), [2, 2, 2, 2])
        np.testing.assert_array_equal(np.diff(values, axis=1), 15)
        np.testing.assert_array_equal(values[:, 0] % 5, labels)
        np.testing.assert_array_equal(windows.batch(8, 0, 0)[0], pixels)
        assert (windows.batch(8, 0, 1)[0] != pixels).any()
    every, actions = windows.every(2)
    assert every.shape == (12, 16, 64, 64, 3)
    np.testing.assert_array_equal(np.bincount(actions), [3, 3, 3, 3])
    fast = np.diff(clips.Windows(windows.strips, speeds=(1.2, 1.2)).batch(8, 0, 0)[0][:, :, 0, 0, 0].astype(int), axis=1)
    assert fast.mean() > 15, "no window reaches beyond its strip, so that speeds are bounded"


def test_what_is_no_strip_is_refused(tmp_path: Path) -> None:
    clips = tool("clips")
    for width, height in ((64 * 20, 63), (64 * 20 + 1, 64), (64 * 15, 64), (64 * 1001, 64)):
        with pytest.raises(SystemExit, match="expected 16 to 1000 frames"):
            clips.as_frames(Image.new("RGB", (width, height)))
    save_strips(tmp_path)
    (tmp_path / "val" / "bend" / "00.png").unlink()
    with pytest.raises(SystemExit, match="got too few"):
        clips.load(tmp_path, "val")


def test_changed_clips_stay_clips_and_spoiled_ones_do_not() -> None:
    clips = tool("clips")
    still = tf.random.stateless_uniform([6, 1, 64, 64, 3], [0, 1], -1, 1)
    clip = tf.clip_by_value(still * 0.1 + tf.linspace(-0.8, 0.8, 16)[:, None, None, None], -1.0, 1.0)
    tf.random.set_seed(0)
    for changed in (clips.varied(clip), clips.moved(clip, 3.0, 0.1, mirror=True)):
        means = tf.reduce_mean(changed, [2, 3, 4])
        assert changed.shape == clip.shape
        assert float(tf.reduce_min(means[:, -1] - means[:, 0])) > 0.2, "time goes on"
    np.testing.assert_allclose(clips.moved(clip, 0.0, 0.0), clip, atol=1e-5)
    spoiled = np.asarray(clips.spoiled(clip))
    assert np.ptp(spoiled[0], axis=0).max() == 0
    np.testing.assert_allclose(np.sort(spoiled[1].mean((1, 2, 3))), np.mean(clip[1], (1, 2, 3)), atol=1e-6)
    np.testing.assert_array_equal(spoiled[2][1::2], clip[1][1::2])
    np.testing.assert_allclose(np.sort(spoiled[5], axis=None), np.sort(clip[5], axis=None), atol=1e-6)
    assert all(np.abs(one - other).max() > 0.05 for one, other in zip(spoiled, np.asarray(clip), strict=True))


def test_targets_of_generated_clips_are_what_both_networks_say() -> None:
    logits = np.log([[0.9, 0.05, 0.05], [0.5, 0.25, 0.25]])
    targets = tool("clip_training").agreed(logits, logits[::-1])
    np.testing.assert_allclose(targets, [[0.45, 0.0125, 0.5375]] * 2, rtol=1e-6)


def test_the_distance_of_frames_sees_change_and_edges() -> None:
    lessons = tool("clip_lessons")
    true = tf.zeros([1, 4, 64, 64, 3])
    ones = tf.ones([1, 4, 64, 64, 1])
    assert float(lessons.distance(true, true, ones)) == 0
    assert float(lessons.distance(true, true + 0.1, ones)) == pytest.approx(0.1, rel=1e-5)
    flicker = true + tf.reshape([0.0, 0.1, 0.0, 0.1], [1, 4, 1, 1, 1])
    assert float(lessons.distance(true, flicker, ones)) == pytest.approx(0.05 + 0.1, rel=1e-5)


@pytest.mark.slow
def test_all_stages_run_resume_and_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eagerly: None, capsys: pytest.CaptureFixture[str]
) -> None:
    actions, measure = tool("train_actions"), tool("check_clips")
    monkeypatch.setattr(actions, "STEPS", dict.fromkeys(actions.STEPS, 2))
    monkeypatch.setattr(tool("clip_generator"), "TURNS", 2)
    monkeypatch.setattr(actions, "CODES", 2)
    monkeypatch.setattr(actions, "DRAWS", 4)
    for module, size in (("clip_training", 6), ("clip_lessons", 2)):
        monkeypatch.setattr(tool(module), "BATCH", size)
    monkeypatch.setattr(tool("clip_training").train_recogniser, "__defaults__", (6,))
    save_strips(tmp_path / "data")
    settings = dict(data=tmp_path / "data", work=tmp_path / "work", out=tmp_path / "out", width=0.1)
    actions.main(**settings, stages="flow")
    assert not (tmp_path / "out").exists()
    actions.main(**settings)
    assert {path.stem for path in (tmp_path / "work").glob("*.npz")} == set(actions.STEPS)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*.npz")}
    stages = actions.Stages(tmp_path / "data", tmp_path / "work", 0.1)
    generator = stages.sharpening
    assert {path: path.stat().st_mtime_ns for path in before} == before, "a stage that is done is not done again"
    z = tf.random.stateless_normal([3, 64], [0, 1])
    model = tf.saved_model.load(str(tmp_path / "out/generator"))
    np.testing.assert_allclose(model(z), generator(z), atol=0.02)  # weights have 16 bits
    assert json.loads((tmp_path / "out/generator/model.json").read_text())["kind"] == "video"
    judge = tf.saved_model.load(str(tmp_path / "out/judge"))
    assert judge(model(z)).shape == (3, 5)
    assert judge.signatures["features"](model(z)).popitem()[1].shape[0] == 3
    measure.main(tmp_path / "data", tmp_path / "out", draws=8, write=True)
    assert "12 windows" not in capsys.readouterr().err
    assert "| its mean over actions |" in (tmp_path / "out/generator/MODEL.md").read_text()
