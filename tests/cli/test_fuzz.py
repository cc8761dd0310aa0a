"""Files from outside, possibly damaged: each is read, or refused in one printable line, and nothing is written."""

import contextlib
import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.support.fuzzing import changed, damaged
from tests.support.records import a_record, npz, some_draws
from tfgradgen.cli.diagnose import diagnose
from tfgradgen.core.checks import UserError
from tfgradgen.evaluation.scored_images import Photographs, ScoredImages, load_photographs
from tfgradgen.io.images import read_image
from tfgradgen.io.store import CHECKPOINT, DIGEST_BYTES, RunStore, digest
from tfgradgen.mcmc.recipe import default_recipe, read_recipe
from tfgradgen.models.label_files import labels_inside, read_label_file, read_labels
from tfgradgen.models.loading.allowlist import check_ops
from tfgradgen.models.loading.archives import unpack
from tfgradgen.models.loading.metadata import parse_labels, read_class_map, read_metadata
from tfgradgen.results.files import read_run
from tfgradgen.tuning.search import open_study, trials

COUNT = 300
LONGEST = 450  # characters of a message
NAMES = [{"name": "goldfish", "wnid": "n01443537", "synset": "goldfish, Carassius auratus"}, {"name": "alp"}, "other"]
CARD = {"image_range": [-1, 1], "latent_dim": 6, "prior": "normal", "labels": NAMES, "output": "logits", "image_size": [8, 8]}


def holds(read_fn: Callable[[], Any], folder: Path, *, what: object = None) -> bool:
    """Run `read_fn`, which may fail with one line and must leave `folder` unchanged; return whether it succeeded."""
    before = listing(folder)
    try:
        read_fn()
        went_well = True
    except UserError as error:
        went_well = False
        said = str(error)
        assert said.isprintable(), (said, what)
        assert len(said) <= LONGEST, (said, what)
    assert listing(folder) == before
    return went_well


def listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_size) for path in folder.rglob("*") if path.is_file())


def fuzz(path: Path, contents: Callable[[random.Random], bytes], read_fn: Callable[[], Any], count: int = COUNT) -> float:
    """Write `contents` to `path` and read it, `count` times; return the share that could be read."""
    rng, num_read = random.Random(path.name), 0
    for k in range(count):
        data = contents(rng)
        path.write_bytes(data)
        num_read += holds(read_fn, path.parent, what=(k, data[:2000]))
    return num_read / count


def as_json(value: Any) -> Callable[[random.Random], bytes]:
    """Damage the values in half of the cases, the bytes in the others."""

    def contents(rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return json.dumps(changed(value, rng), ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")
        return damaged(json.dumps(value).encode(), rng)

    return contents


def as_bytes(data: bytes) -> Callable[[random.Random], bytes]:
    return lambda rng: damaged(data, rng)


def changed_arrays(arrays: dict[str, np.ndarray], rng: random.Random) -> dict[str, np.ndarray]:
    """Return `arrays`, of which one or two have another shape, type or content, or are missing."""
    found = dict(arrays)
    for _ in range(rng.randint(1, 2)):
        name = rng.choice(list(found))
        array = found[name]
        choices = (
            lambda a: a[:0],
            lambda a: a[..., :1],
            lambda a: a[None],
            lambda a: a.reshape(-1),
            lambda a: a.astype(rng.choice(["f8", "i4", "U3", "c8", "?", "u1", "M8[s]"]), casting="unsafe"),
            lambda a: np.zeros((), a.dtype),
            lambda a: np.full(a.shape, rng.choice([np.nan, np.inf, -np.inf, 3e38, -3e38, 0, 1e-45])).astype(a.dtype),
            lambda a: np.where(np.arange(a.size).reshape(a.shape) % 7 == 0, np.nan, a).astype(a.dtype),
        )
        with np.errstate(all="ignore"):
            try:
                found[name] = rng.choice(choices)(array)
            except (IndexError, TypeError, ValueError):
                del found[name]
        if not found:
            return dict(arrays)
    return found


def test_schedules(tmp_path: Path) -> None:
    text = yaml.safe_dump(default_recipe("hmc").to_dict())
    path = tmp_path / "best.yaml"
    path.write_text(text)
    assert holds(lambda: read_recipe(path), tmp_path)
    fuzz(path, as_bytes(text.encode()), lambda: read_recipe(path))
    assert 0.01 < fuzz(path, as_json(default_recipe("hmc").to_dict()), lambda: read_recipe(path)) < 0.9  # JSON is YAML


def test_cards(tmp_path: Path) -> None:
    path = tmp_path / "model.json"

    def read() -> None:
        card = read_metadata(tmp_path)
        read_labels(card.get("labels", []), tmp_path, "m")

    assert 0.1 < fuzz(path, as_json(CARD), read) < 0.9


@pytest.mark.parametrize("name", ["labels.json", "labels.txt"])
def test_label_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    contents = as_json(NAMES) if name.endswith("json") else as_bytes("goldfish\nking penguin\nZürich\n金魚\n".encode())
    assert 0.01 < fuzz(path, contents, lambda: read_label_file(path)) < 0.95


@pytest.mark.parametrize("content", [{"id2label": {"0": "goldfish", "1": "alp"}}, {"goldfish": 0, "alp": 1}])
def test_label_files_of_others(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / ("config.json" if "id2label" in content else "labels.json")
    assert 0.01 < fuzz(path, as_json(content), lambda: labels_inside(tmp_path)) <= 1


def test_class_maps(tmp_path: Path) -> None:
    path = tmp_path / "its_class_map.csv"
    text = 'index,mid,display_name\n0,/m/a,Speech\n1,/m/b,"Child speech, kid"\n2,/m/c,Speech\n'
    fuzz(path, as_bytes(text.encode()), lambda: parse_labels(read_class_map(path, tmp_path), "labels"))


def test_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """run.json and samples.npz are read and diagnosed as by `diagnose`."""
    folder = tmp_path / "run"
    folder.mkdir()
    arrays = some_draws()._asdict() | {"image": np.zeros((3, 8, 8, 3), np.uint8)}
    samples, record = npz(**arrays), json.dumps(a_record())
    (folder / "samples.npz").write_bytes(samples)
    (folder / "run.json").write_text(record)
    assert holds(lambda: diagnose(folder), tmp_path)
    assert 0.1 < fuzz(folder / "run.json", as_json(a_record()), lambda: diagnose(folder)) < 0.95
    (folder / "run.json").write_text(record)
    fuzz(folder / "samples.npz", as_bytes(samples), lambda: read_run(folder, "diagnose", "give another"))
    with np.errstate(all="ignore"):
        share = fuzz(
            folder / "samples.npz", lambda rng: npz(**changed_arrays(arrays, rng)), lambda: diagnose(folder), COUNT // 3
        )
    assert 0.1 < share < 0.9
    shown = capsys.readouterr()
    assert all(c.isprintable() or c == "\n" for c in shown.out + shown.err)


def test_checkpoints(tmp_path: Path) -> None:
    """Checkpoints with the correct digest of the damaged content are included, because anyone can compute it."""
    draws, identity = some_draws(), {"seed": 0, "arguments": {"num_chains": 3}}
    RunStore(tmp_path, identity).append(draws, {"z": draws.z[-1]}, {"seconds": 1.5, "doubts": [], "num_gradients": 3})
    path = tmp_path / CHECKPOINT
    whole = path.read_bytes()[:-DIGEST_BYTES]
    with np.load(io.BytesIO(whole)) as loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    header = json.loads(arrays["header"].tobytes())

    def contents(rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            return damaged(path.read_bytes(), rng)
        data = damaged(whole, rng)
        if rng.random() < 0.8:
            text = json.dumps(changed(header, rng)).encode()
            data = npz(**arrays | {"header": np.frombuffer(text, np.uint8)})
        return data + digest(data)

    share = fuzz(path, contents, lambda: RunStore(tmp_path, identity).draws())
    assert 0.01 < share < 0.6


def test_studies(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    study = open_study(path, {"seed": 0})
    trial = study.ask()
    trial.set_user_attr("state", "whole")
    trial.set_user_attr("recipe", default_recipe("hmc").to_dict())
    study.tell(trial, 1.0)
    whole = path.read_bytes()

    def read() -> None:
        trials(open_study(path, {"seed": 0}))

    fuzz(path, as_bytes(whole), read, 60)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "gif"])
def test_images(ending: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper()), exif=exif)
    path = tmp_path / f"a.{ending}"
    path.write_bytes(stream.getvalue())
    assert holds(lambda: read_image(path), tmp_path)
    fuzz(path, as_bytes(stream.getvalue()), lambda: read_image(path))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_archives(mode: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in {"model/saved_model.pb": b"graph" * 100, "model/variables/variables.index": b"index"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (tmp_path / "in").mkdir()
    path, out = tmp_path / "in" / "model.tar", tmp_path / "out"

    def read() -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(out)
        unpack(path, out)

    fuzz(path, as_bytes(stream.getvalue()), read)
    assert {entry.name for entry in tmp_path.iterdir()} <= {"in", "out"}


def test_photographs(tmp_path: Path) -> None:
    table = np.zeros((4, 4), np.float32)
    of_class = ScoredImages(table, table[0], table[0], table[0] > 0, table, np.zeros((4, 8, 8, 3), np.uint8))
    path = tmp_path / "photographs.npz"
    Photographs({"alp": of_class}, "sha").save(path)
    fuzz(path, as_bytes(path.read_bytes()), lambda: load_photographs(path))


def test_graphs(toy_pair: tuple[Path, Path], tmp_path: Path) -> None:
    whole = (toy_pair[0] / "saved_model.pb").read_bytes()
    fuzz(tmp_path / "saved_model.pb", as_bytes(whole), lambda: check_ops(tmp_path), COUNT // 3)
