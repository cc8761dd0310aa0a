"""Files of a model from outside: exactly the checked content is loaded, and nothing outside of the folder is read."""

import hashlib
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy
from tests.support.archives import archive_of
from tests.support.hostile import SHAPE, writes
from tfgradgen.core.checks import UserError
from tfgradgen.models.classifier import load_classifier
from tfgradgen.models.loading import inside, saved_model
from tfgradgen.models.loading.archives import unpack
from tfgradgen.models.loading.inside import Copy
from tfgradgen.models.loading.metadata import fingerprint, read_metadata
from tfgradgen.models.loading.saved_model import open_saved_model

pytestmark = pytest.mark.usefixtures("quick_runs")

SECRET = ["secret", "words", "of others"]
PARTS = ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001", "assets/words"]


def classify(image: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(image, [1, 2])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = toy.save(tmp_path / "model", classify, [None, 4, 4, 3], {"image_range": [-1, 1], "output": "logits"})
    (folder / "assets").mkdir(exist_ok=True)
    (folder / "assets" / "words").write_text("x")
    return folder


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret" / "names"
    file.parent.mkdir()
    file.write_text(json.dumps(SECRET))
    return file


def refused(fn: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as error:
        fn()
    (line,) = str(error.value).splitlines()
    return line


def test_what_flips_after_the_check_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the check and loading, the model is replaced by one that writes a file."""
    loot = tmp_path / "loot"
    folder = toy.save(tmp_path / "model", tf.tanh, SHAPE)
    hostile = toy.save(tmp_path / "hostile", lambda x: writes(loot, x), SHAPE)
    check = saved_model.check_ops

    def check_and_flip(*args: Any) -> Any:
        result = check(*args)
        shutil.rmtree(folder)
        folder.symlink_to(hostile)
        return result

    monkeypatch.setattr(saved_model, "check_ops", check_and_flip)
    opened = open_saved_model(folder)
    np.testing.assert_allclose(opened.function("__call__")({"input": tf.ones([1, 4])})["output"], np.tanh(np.ones([1, 4])))
    assert not loot.exists()


def test_a_link_that_flips_wins_no_race(tmp_path: Path) -> None:
    loot = tmp_path / "loot"
    folder = toy.save(tmp_path / "model", tf.tanh, SHAPE)
    hostile = toy.save(tmp_path / "hostile", lambda x: writes(loot, x), SHAPE)
    programs = [path / "saved_model.pb" for path in (folder, hostile)]
    for k, path in enumerate(programs):
        shutil.copy(path, folder / f"program{k}")
    stop = threading.Event()

    def flip() -> None:
        k = 0
        while not stop.is_set():
            (folder / "next").symlink_to(f"program{k}")
            os.replace(folder / "next", folder / "saved_model.pb")
            k = 1 - k
            time.sleep(0.0005)

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        num_loaded = sum(loads(folder) for _ in range(25))
    finally:
        stop.set()
        thread.join()
    assert num_loaded < 25
    assert not loot.exists()


def loads(folder: Path) -> bool:
    """Return whether the model is loaded and runs, rather than refused."""
    try:
        open_saved_model(folder).function("__call__")({"input": tf.ones([1, 4])})
    except UserError:
        return False
    return True


def test_the_copy_is_private_and_goes(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    files = Copy(model)
    assert stat.S_IMODE(files.folder.stat().st_mode) == 0o700
    assert files.sha256 == fingerprint(model) == fingerprint(files.folder)
    assert sorted(str(path.relative_to(files.folder)) for path in files.folder.rglob("*") if path.is_file()) == sorted(PARTS)
    del files
    assert not list((tmp_path / "temporary").iterdir())
    classifier = load_classifier(model, labels=["a", "b", "c"])
    assert not list((tmp_path / "temporary").iterdir()), "a checked TF2 model needs its files no more"
    assert classifier.sha256 == fingerprint(model)


def test_a_copy_that_cannot_be_written_is_one_line(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert "copy of the model: expected a temporary folder that can be written" in refused(lambda: Copy(model))


def test_the_fingerprint_is_what_it_was(model: Path) -> None:
    digest = hashlib.sha256()
    for name in sorted(PARTS, key=lambda name: (not name.startswith("saved"), not name.startswith("var"), Path(name))):
        content = (model / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    assert fingerprint(model) == digest.hexdigest()


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_links_out_of_the_folder_is_refused(name: str, model: Path, secret: Path) -> None:
    (model / name).rename(secret.parent / "part")
    (model / name).symlink_to(secret.parent / "part")
    for fn in (lambda: fingerprint(model), lambda: open_saved_model(model)):
        line = refused(fn)
        assert "got a link out of its folder; copy the model's own files into its folder." in line
        assert Path(name).name in line


@pytest.mark.parametrize("name", ["variables", "assets"])
def test_a_linked_folder_of_parts_is_refused(name: str, model: Path, secret: Path) -> None:
    (model / name).rename(secret.parent / name)
    (model / name).symlink_to(secret.parent / name, target_is_directory=True)
    assert "a link to a folder" in refused(lambda: fingerprint(model))


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
@pytest.mark.parametrize("name", ["variables/more", "assets/more", "model.json", "labels.json"])
def test_pipes_and_devices_are_refused_and_not_opened(kind: str, name: str, model: Path, secret: Path) -> None:
    (model / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(model / name)
    elif kind == "socket":
        os.mknod(model / name, stat.S_IFSOCK | 0o600)
    else:
        (model / name).symlink_to("/dev/zero")
    if "/" in name:
        line = refused(lambda: fingerprint(model))
        assert ("not a regular file" if kind != "device" else "a link out of its folder") in line
        refused(lambda: open_saved_model(model))
    elif name == "model.json" or kind != "device":
        line = refused(lambda: load_classifier(model, image_range=(-1, 1), output="logits"))
        assert ("not a regular file" if kind != "device" else "a link out of its folder") in line
    else:
        assert [label.name for label in load_classifier(model, image_range=(-1, 1), output="logits").labels] == ["0", "1", "2"]


def test_a_sparse_file_is_not_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (model / "variables" / "more").open("wb") as file:
        file.truncate(60 << 30)
    start = time.monotonic()
    for fn in (lambda: fingerprint(model), lambda: open_saved_model(model)):
        assert "expected a model of at most 16 GiB" in refused(fn)
    assert time.monotonic() - start < 5
    (model / "variables" / "more").unlink()
    with (model / "saved_model.pb").open("r+b") as file:
        file.truncate(3 << 30)
    assert "its saved_model.pb below 2 GiB, got saved_model.pb of 3,221,225,472 bytes" in refused(lambda: fingerprint(model))
    monkeypatch.setattr(inside, "MAX_FILES", 3)
    (model / "saved_model.pb").write_bytes(b"")
    for k in range(4):
        (model / "variables" / f"more{k}").touch()
    assert "more than 3 files" in refused(lambda: fingerprint(model))


def test_holes_stay_holes(model: Path) -> None:
    with (model / "assets" / "zeros").open("wb") as file:
        file.truncate(64 << 20)
    files = Copy(model)
    copy = files.folder / "assets" / "zeros"
    assert copy.stat().st_size == 64 << 20
    assert copy.stat().st_blocks * 512 < 1 << 20
    assert files.sha256 == fingerprint(model)


@pytest.mark.parametrize("name", ["model.json", "labels.json", "labels.txt", "class_names.txt", "assets/yamnet_class_map.csv"])
def test_cards_and_labels_that_link_out_are_not_read(name: str, model: Path, secret: Path) -> None:
    if name.endswith("csv"):
        secret.write_text("display_name\n" + "\n".join(SECRET))
    elif name.endswith("txt"):
        secret.write_text("\n".join(SECRET))
    elif name == "model.json":
        secret.write_text(json.dumps({"labels": SECRET}))
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(secret)
    settings = {"image_range": (-1, 1), "output": "logits"}
    if name.endswith("csv"):
        assert "got a link out of its folder" in refused(lambda: load_classifier(model, **settings))
    elif name == "model.json":
        assert "got a link out of its folder" in refused(lambda: load_classifier(model, **settings))
        assert "got a link out of its folder" in refused(lambda: read_metadata(model))
    else:
        assert [label.name for label in load_classifier(model, **settings).labels] == ["0", "1", "2"]


def test_labels_next_to_a_model_that_link_elsewhere_are_not_read(model: Path, secret: Path) -> None:
    (model.parent / "labels.json").symlink_to(secret)
    assert [label.name for label in load_classifier(model).labels] == ["0", "1", "2"]
    (model.parent / "labels.json").unlink()
    shutil.copy(secret, model.parent / "labels.json")
    assert [label.name for label in load_classifier(model).labels] == SECRET


def test_a_card_names_no_file_outside(model: Path, secret: Path) -> None:
    (model / "link").symlink_to(secret)
    card = {"image_range": [-1, 1], "output": "logits"}
    for name in ("link", str(secret), "../secret/names", "link/../../secret/names"):
        (model / "model.json").write_text(json.dumps(card | {"labels": name}))
        assert "the name of a file in the model's folder" in refused(lambda: load_classifier(model))
    (model / "inner").symlink_to("names.json")
    shutil.copy(secret, model / "names.json")
    (model / "model.json").write_text(json.dumps(card | {"labels": "inner"}))
    shutil.copy(secret, model / "names.json")
    (model / "names.json").write_text("\n".join(SECRET))
    assert [label.name for label in load_classifier(model).labels] == SECRET, "a link inside the folder is followed"


def test_links_that_caches_use_are_followed(model: Path, tmp_path: Path) -> None:
    """The folder of a model may itself be a link, and in Hugging Face's cache each file is a link into blobs/."""
    (tmp_path / "link").symlink_to(model)
    assert fingerprint(tmp_path / "link") == fingerprint(model)
    snapshot = tmp_path / "models--x--y" / "snapshots" / "0123"
    blobs = tmp_path / "models--x--y" / "blobs"
    blobs.mkdir(parents=True)
    for k, name in enumerate([*PARTS, "model.json"]):
        shutil.copy(model / name, blobs / str(k))
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(blobs / str(k), (snapshot / name).parent))
    (blobs / "labels").write_text("\n".join(SECRET))
    (snapshot / "labels.txt").symlink_to("../../blobs/labels")
    assert fingerprint(snapshot) == fingerprint(model)
    assert [label.name for label in load_classifier(snapshot).labels] == SECRET
    (blobs / "0").unlink()
    (blobs / "0").symlink_to(model / "saved_model.pb")
    assert "a link out of its folder" in refused(lambda: fingerprint(snapshot))


def test_an_archive_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(archive_of())
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    unpack(archive, tmp_path / "first", sha256=digest)
    archive.write_bytes(archive_of(content=b"abd"))
    line = refused(lambda: unpack(archive, tmp_path / "second", sha256=digest))
    assert "got one that changed while it was read" in line
    assert not (tmp_path / "second").exists()
