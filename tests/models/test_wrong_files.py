"""Paths that are not a SavedModel: the error says what they are and what to run."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.command import refused
from tfgradgen.core.checks import UserError
from tfgradgen.models.classifier import load_classifier
from tfgradgen.models.generator import load_generator
from tfgradgen.models.loading.handles import resolve_handle

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"


def line_of(path: Path | str) -> str:
    with pytest.raises(UserError) as error:
        resolve_handle(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("net.keras", ("a Keras file", 'keras.models.load_model("{}").export("FOLDER")')),
        ("net.h5", ("HDF5", '.export("FOLDER")')),
        ("net.pb", ("a frozen graph", "simple_save")),
        ("net.onnx", ("an ONNX file", "onnx2tf -i {} -o FOLDER")),
        ("net.pt", ("a PyTorch file", "torch.onnx.export")),
        ("net.pth", ("a PyTorch file", "torch.onnx.export")),
        ("net.safetensors", ("weights", "torch.onnx.export")),
        ("net.tflite", ("TFLite", "no gradients")),
        ("net.zip", ("a ZIP archive", "unpack it")),
        ("net.ckpt.data-00000-of-00001", ("a checkpoint", "model.export(FOLDER)")),
        ("net.txt", ("another file", "the folder that holds saved_model.pb")),
    ],
)
def test_files_of_other_kinds(name: str, texts: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"\0" * 2000)
    for text in texts:
        assert text.format(path) in line_of(path)
    if name not in ("net.txt", "net.zip"):
        assert texts[0] in line_of(tmp_path), "in a folder as well"


def test_the_file_in_a_model_is_taken_for_a_slip(toy_pair: tuple[Path, Path]) -> None:
    assert line_of(toy_pair[0] / "saved_model.pb").endswith(f"give {toy_pair[0]}.")
    assert line_of(toy_pair[0] / "variables").endswith(f"did you mean {toy_pair[0]}?")


def test_the_folder_above(toy_pair: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(toy_pair[0], tmp_path / "a" / "model")
    assert f"did you mean {tmp_path / 'a' / 'model'}?" in line_of(tmp_path / "a")
    assert f"did you mean {tmp_path / 'a' / 'model'}?" in line_of(tmp_path)
    shutil.copytree(toy_pair[1], tmp_path / "a" / "other")
    assert f"did you mean {tmp_path / 'a' / 'model'} or {tmp_path / 'a' / 'other'}?" in line_of(tmp_path / "a")


def test_the_highest_of_the_versions_is_taken_and_said(toy_pair: tuple[Path, Path], tmp_path: Path, capsys: object) -> None:
    for version in ("2", "10", "9"):
        shutil.copytree(toy_pair[0], tmp_path / "served" / version)
    assert resolve_handle(str(tmp_path / "served")) == tmp_path / "served" / "10"
    generator = load_generator(tmp_path / "served")
    assert generator.assumed == ("version 10",)
    np.testing.assert_array_equal(
        generator(np.ones([1, 6], np.float32)), load_generator(toy_pair[0])(np.ones([1, 6], np.float32))
    )
    assert load_generator(tmp_path / "served" / "2").assumed == ()


@pytest.mark.parametrize("part", ["saved_model.pb", "variables/variables.data-00000-of-00001"])
def test_pointers_of_git_lfs(part: str, toy_pair: tuple[Path, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy_pair[1], tmp_path / "c"))
    (folder / part).write_text(POINTER)
    with pytest.raises(UserError, match=rf"a Git LFS pointer, .*{Path(part).name}; run git lfs pull in "):
        load_classifier(folder)
    (tmp_path / "net.tar.gz").write_text(POINTER)
    assert "git lfs pull" in line_of(tmp_path / "net.tar.gz")


@pytest.mark.parametrize("part", ["variables.index", "variables.data-00000-of-00001"])
def test_a_part_that_is_missing(part: str, toy_pair: tuple[Path, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy_pair[1], tmp_path / "c"))
    (folder / "variables" / part).unlink()
    with pytest.raises(UserError, match=rf"one without variables/{part.split('-')[0]}; copy or download"):
        load_classifier(folder)


def test_a_cache_that_was_half_cleaned(toy_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This happens if old files in a temporary folder are removed but its folders stay."""
    url = "https://tfhub.dev/somebody/classifier/1"
    folder = tmp_path / "hub" / hashlib.sha1(url.encode()).hexdigest()
    (folder / "variables").mkdir(parents=True)
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "hub"))
    assert f"remove {folder}, so that the model is downloaded again" in line_of(url)
    kaggle = tmp_path / "kaggle" / "models" / "a" / "b" / "tensorFlow2" / "c" / "1"
    kaggle.mkdir(parents=True)
    kaggle.with_name("1.complete").touch()
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kaggle"))
    assert f"remove {kaggle}, so that" in line_of("a/b/tensorFlow2/c/1")


def test_the_nearest_name_is_offered(toy_pair: tuple[Path, Path]) -> None:
    assert "did you mean generator?" in line_of(toy_pair[0].with_name("generater"))


def test_it_is_one_line_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.keras").write_text(json.dumps({}))
    said = refused(["check", f"--generator={tmp_path / 'net.keras'}"], capsys)
    assert "a Keras file" in said
