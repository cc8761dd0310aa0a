"""`compare` on the toy pair: what it writes, what it keeps, and what it prints if something fails."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support import standins
from tests.support.command import with_flags
from tests.support.fleets import HereFleet, on_fleet
from tests.support.observers import LABELS, save_network, save_observers
from tfgradgen.cli import compare as module
from tfgradgen.cli.commands import main
from tfgradgen.core.checks import UserError
from tfgradgen.evaluation.cells import checkpoints_up_to
from tfgradgen.evaluation.method_specs import parse_method_spec

pytestmark = pytest.mark.usefixtures("quick_runs")

SMALL = ["compare", "--num_chains=5", "--num_gradients=100"]


@pytest.fixture(scope="module")
def observers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return save_observers(tmp_path_factory.mktemp("observers"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for label in LABELS:
        (folder / "val" / label["name"]).mkdir(parents=True)
        for k in range(12):
            image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / "val" / label["name"] / f"{k}.png")
    return folder


def rows_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())["rows"]


@pytest.mark.slow
def test_one_command_gives_the_table_the_curves_and_the_pictures(
    toy_flags: list[str], observers: list[str], photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c"
    kernels = "map+reg,mala,smc,rejection"
    main([*SMALL, "--labels=goldfish,alp", f"--kernels={kernels}", f"--photographs={photographs}", f"--out={out}",
          *toy_flags, *observers])  # fmt: skip
    assert {path.name for path in out.iterdir()} == {
        "report.html", "report.md", "table.csv", "report.json", "curves.png", "grids.png", "pictures", "cells",
    }  # fmt: skip
    rows = rows_of(out)
    assert list(rows) == [*kernels.split(","), "photographs", "prior"]
    for name in rows:
        images = sorted((out / "pictures" / name).iterdir())
        assert len(images) == 2 * 5
        with Image.open(images[0]) as image:
            assert (image.size, image.mode) == ((8, 8), "RGB")
        measured = rows[name]["values"]
        assert {"log_natural", "judge_accuracy", "judge_log_prob", "kid", "density", "coverage", "vendi", "feature_distance",
                "repeats", "mmd", "mmd_p", "c2st", "c2st_p"} <= set(measured), name  # fmt: skip
        assert 1 <= measured["vendi"]["value"] <= 5
        assert "ms_ssim" not in measured, "images of 8 pixels are too small for it"
    assert rows["mala"]["values"]["log_natural"]["error"] > 0
    assert [len(rows[name]["curve"]["kid"]) for name in rows] == [3] * 6  # after 10, 30 and 100 gradients
    assert rows["mala"]["gradients"] == 100
    assert rows["rejection"]["gradients"] == 0
    assert rows["rejection"]["forward"] >= 1
    assert "fid" not in rows["photographs"]["values"]
    written = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert {row["row"] for row in written} == set(rows)
    report = (out / "report.md").read_text()
    command = next(line for line in report.splitlines() if line.startswith("python -m tfgradgen compare"))
    assert "--labels=goldfish,alp" in command
    assert all(flag in command for flag in [*toy_flags, *observers, f"--photographs={photographs}"]), "as it was typed"
    assert "curves.png" in report
    assert "report.md" in capsys.readouterr().out


def test_workers_make_the_same_cells(toy_flags: list[str], observers: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A worker is lost, and a failed cell does not affect the others."""
    few = with_flags(
        [*SMALL, "--labels=goldfish,alp", "--kernels=mala,smc,rejection", *toy_flags, *observers], "--num_gradients=10"
    )
    for place in ("near", "far"):
        with on_fleet(HereFleet((3,))), pytest.raises(SystemExit):
            main([*few, f"--out={place}", *(["--devices=all"] if place == "far" else [])])
        assert "failed   smc for alp: num_gradients: expected at least" in capsys.readouterr().out
    names = [path.relative_to("near") for path in sorted(Path("near/cells").rglob("*.npz"))]
    assert len(names) == 2 * 3
    for name in names:
        assert Path("near", name).read_bytes() == Path("far", name).read_bytes(), name
    assert rows_of(Path("near")) == rows_of(Path("far"))


@pytest.mark.slow
def test_a_finished_cell_is_not_made_again_and_a_failed_one_leaves_the_rest(
    toy_flags: list[str],
    observers: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, made, run_cell = tmp_path / "c", [], module.run_cell

    def counted(posterior: Any, entry: Any, *rest: Any) -> Any:
        made.append((entry.name, int(posterior.label)))
        if broken and entry.name == "hmc" and int(posterior.label) == 2:
            raise ValueError("no such\nluck")
        return run_cell(posterior, entry, *rest)

    monkeypatch.setattr(module, "run_cell", counted)
    command = [*SMALL, "--labels=goldfish,alp", "--kernels=mala,hmc", f"--out={out}", *toy_flags, *observers]
    broken = True
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 1
    assert len(made) == 4
    shown = capsys.readouterr().out
    assert "failed   hmc for alp: no such luck" in shown
    assert "without  KID, FID, density, coverage, repeats: no photographs of these classes" in shown, (
        "without photographs of these models it says what is left out"
    )
    rows = rows_of(out)
    assert rows["hmc"]["failed"] == {"alp": "no such luck"}
    assert rows["hmc"]["labels"] == ["goldfish"]
    assert "log_natural" in rows["hmc"]["values"]
    assert rows["mala"]["labels"] == ["goldfish", "alp"]
    assert "no such luck" in (out / "report.md").read_text()
    broken = False
    before = rows["mala"]
    made.clear()
    main([*command, "--resume"])
    assert made == [("hmc", 2)]
    assert rows_of(out)["hmc"]["failed"] == {}
    assert rows_of(out)["mala"] == before
    made.clear()
    (out / "cells" / "0000_goldfish" / "mala.npz").write_bytes(b"half a file")
    main(with_flags(command, "--kernels=hmc,mala,map", "--resume"))
    assert made == [("mala", 0), ("map", 0), ("map", 2)], "a damaged cell and new ones only"
    assert rows_of(out)["mala"] == before, "the same bits again"
    with pytest.raises(SystemExit):
        main([*command, "--resume", "--seed=1"])
    assert "expected seed 0 as in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kernels=hmc+reg"], "did you mean"),
        (["--kernels=gibbs"], "kernels: expected one of"),
        (["--num_gradients=5"], "num_gradients: expected an integer in 10.."),
        (["--class_reg=-1"], "class_reg"),
        (["--num_chains=4"], "num_chains: expected an integer in 5..4096"),
        (["--num_steps=5"], "unknown flag --num_steps"),
        (["--photographs=nowhere"], "photographs: expected a folder"),
        (["--labels=dog"], "labels: expected a class name"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], message: str, toy_flags: list[str], observers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [] if any(flag.startswith("--labels") for flag in flags) else ["--labels=alp"]
    with pytest.raises(SystemExit) as stop:
        main(with_flags([*SMALL, *labels, "--out=c", *toy_flags, *observers], *flags))
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not Path("c").exists()


def test_networks_that_cannot_judge_are_refused(toy_flags: list[str], observers: list[str], tmp_path: Path) -> None:
    from tfgradgen.evaluation.scored_images import load_observer

    judge, discriminator = (Path(flag.split("=")[1]) for flag in observers)
    with pytest.raises(UserError, match="discriminator: expected a classifier with a label 'natural', got goldfish"):
        load_observer(judge, judge)
    plain = save_network(tmp_path / "plain", lambda x: tf.reduce_mean(x, [1, 2]), LABELS, with_features=False)
    with pytest.raises(UserError, match="judge: expected a SavedModel with a signature 'features', got serving_default"):
        load_observer(plain, discriminator)
    observer = load_observer(judge, discriminator)
    assert observer.class_index("alp") == 2
    for unknown in ("2", "all", "dog"):
        with pytest.raises(UserError, match=f"judge: expected a class named {unknown}, got goldfish, king_penguin, alp"):
            observer.class_index(unknown)


def test_an_existing_folder_is_left_alone(toy_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(SystemExit):
        main([*SMALL, "--labels=alp", f"--out={tmp_path / 'mine'}", *toy_flags])
    assert "--resume" in capsys.readouterr().err
    (tmp_path / "mine" / "pictures").mkdir()
    with pytest.raises(SystemExit):
        main([*SMALL, "--labels=alp", f"--out={tmp_path / 'mine'}", "--resume", *toy_flags])
    assert "which also holds thesis.txt" in capsys.readouterr().err
    (tmp_path / "mine" / "thesis.txt").unlink()
    with pytest.raises(SystemExit):
        main([*SMALL, "--labels=alp", f"--out={tmp_path / 'mine'}", "--resume", *toy_flags])
    assert "which has no cells;" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["pictures"]


def test_checkpoints_are_half_decades_up_to_the_budget() -> None:
    assert checkpoints_up_to(3000) == [10, 30, 100, 300, 1000, 3000]
    assert checkpoints_up_to(50) == [10, 30, 50]


def test_a_name_with_reg_sets_the_weight_and_nothing_else() -> None:
    plain, pulled = parse_method_spec("mala", 2.0), parse_method_spec("mala+reg", 2.0)
    assert plain.config.to_dict()["class_reg"] == 0
    assert pulled.config.to_dict() == plain.config.to_dict() | {"class_reg": 2.0}
    with pytest.raises(UserError, match="kernels"):
        parse_method_spec("rejection+reg", 1.0)


def test_bigbigans_own_adversary_serves_as_discriminator(toy_flags: list[str], observers: list[str], tmp_path: Path) -> None:
    """It changes only the measure of naturalness."""
    folder = standins.build("https://tfhub.dev/deepmind/bigbigan-resnet50/1", tmp_path / "bigbigan")
    values = []
    for out, discriminator in (("own", observers[1]), ("adversary", f"--discriminator={folder}")):
        main([*SMALL, "--labels=goldfish", "--kernels=rejection", f"--out={out}", *toy_flags, observers[0], discriminator])
        values.append(rows_of(Path(out))["rejection"]["values"])
    assert values[0].pop("log_natural") != values[1].pop("log_natural")
    assert values[0] == values[1]
    assert json.loads(Path("adversary/report.json").read_text())["record"]["discriminator"]["signature"] == "discriminate"
