"""The whole training of the consensus classifier, with the shipped models, noise as photographs and small random networks."""

import functools
import json
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from tests.support.lite_states import random_state
from tests.support.tooling import tool
from tfgradgen.models.classifier import load_classifier

MODELS = Path(__file__).resolve().parents[2] / "saved_models"
STAGES = ["teachers", "teacher", "head_early", "head", "tune", "tune_round1", "tune_round1_balanced"]


def save_noise(folder: Path, names: list[str], split: str, count: int) -> None:
    rng = np.random.default_rng(0)
    for name in names:
        (folder / split / name).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(rng.integers(0, 255, (64, 64, 3)).astype("uint8")).save(folder / split / name / f"{k}.png")


def convert_opinions_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert the first student to TensorFlow Lite, which takes most of the time, and run the others as they are."""
    studio = tool("consensus_stages").Studio
    real, students = studio.opinion, []

    def opinion(self: Any, student: Any) -> Any:
        students.append(student)
        if len(students) == 1:
            return real(self, student)
        return lambda images: student.opinion(np.asarray(images, "float32") / 127.5 - 1.0).numpy()

    monkeypatch.setattr(studio, "opinion", opinion)


@pytest.mark.slow
def test_run_makes_every_stage_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lite, stages, measure = tool("efficientnet_lite"), tool("consensus_stages"), tool("measure_consensus")
    monkeypatch.setattr(lite, "STAGES", ((1, 3, 2, 8, 1), (1, 3, 2, 8, 2), (1, 5, 2, 16, 2)))
    monkeypatch.setattr(tool("consensus_network"), "TAPS", (0, 1))
    rng = np.random.default_rng(1)
    head = {"_fc.weight": 0.01 * rng.standard_normal((1000, 1280)).astype("float32"), "_fc.bias": np.zeros(1000, "float32")}
    monkeypatch.setattr(lite, "weights_path", lambda variant: variant)
    monkeypatch.setattr(lite, "read_torch", lambda variant: random_state(variant, np.random.default_rng(0)) | head)
    for module in (tool("label_draws"), stages):
        monkeypatch.setattr(module, "CHUNK", 20)
    monkeypatch.setattr(tool("label_draws").label_all, "__defaults__", (20, print))
    monkeypatch.setattr(stages.label_round, "__defaults__", (20,))
    monkeypatch.setattr(stages, "STEPS_PER_EPOCH", 1)
    eagerly = lambda self, **settings: keras.Model.compile(self, run_eagerly=True, **settings)  # noqa: E731
    monkeypatch.setattr(stages.Lesson, "compile", eagerly)
    for place in ("classifier.load_classifier", "generator.load_generator"):  # the stages load the same shipped models again
        monkeypatch.setattr(f"tfgradgen.models.{place}", functools.cache(resolve_name(f"tfgradgen.models.{place}")))
    monkeypatch.setattr(measure, "gradient_ratio", lambda *args: 1.5)
    convert_opinions_once(monkeypatch)
    classifier = resolve_name("tfgradgen.models.classifier.load_classifier")(MODELS / "classifier")
    names = [label.name for label in classifier.labels if not label.background]
    save_noise(tmp_path / "photos", names, "train", 2)
    save_noise(tmp_path / "photos", names, "val", 1)
    save_noise(tmp_path / "others", ["shoe", "cup"], "train", 7)
    paths = dict(
        work=tmp_path / "work", data=tmp_path / "photos", others=tmp_path / "others", teacher=MODELS / "classifier", size=32
    )
    settings = dict(draws=60, rounds=1, head_steps=10, tune_steps=2)
    tool("train_consensus").run(**paths, **settings)
    rows = {row["stage"]: row for row in measure.read_rows(tmp_path / "work/figures.csv")}
    assert set(rows) == set(STAGES)
    assert {row["draws"] for row in rows.values()} == {"20"}
    assert rows["tune"]["gradient_ratio"] == "1.5"
    assert rows["teachers"]["agreement_mean"] == "1.0"
    assert all("nan" not in row.values() for row in rows.values())
    files = sorted(path for path in (tmp_path / "work").rglob("*") if path.is_file())
    times = {path: path.stat().st_mtime_ns for path in files}
    weights = sorted(f"{stage}.npz" for stage in STAGES[2:])
    assert [path.name for path in files if path.parent.name == "work"] == ["figures.csv", *weights]
    tool("train_consensus").run(**paths, **settings)
    assert {path: path.stat().st_mtime_ns for path in files} == times
    monkeypatch.setattr(stages, "SOFTNESS", 1.5)
    tool("train_consensus").run(**paths, **settings)
    changed = {path.name for path in files if path.stat().st_mtime_ns != times[path]}
    assert changed == {"tune_round1_balanced.npz", "figures.csv"}, "made again with another setting, and measured again"
    tool("train_consensus").export(**paths, stage="tune_round1_balanced", out=tmp_path / "model")
    model = load_classifier(tmp_path / "model")
    assert [label.name for label in model.labels] == [*names, "other"]
    metadata = json.loads((tmp_path / "model/model.json").read_text())
    assert metadata["labels"][0]["wnid"] == "n01443537"
    card = " ".join((tmp_path / "model/MODEL.md").read_text().split())
    assert "stage `tune_round1_balanced`" in card
    assert "divided by 1.5." in card
    assert "only goldfish has 0.75 times the share" in card
    assert np.isfinite(model(np.zeros((2, 64, 64, 3), "float32"))).all()
