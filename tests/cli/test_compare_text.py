"""`compare --text`: what is measured, what is left out, which cells are kept, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import standins_text
from tests.support.command import refused, with_flags
from tests.support.observers import save_observers
from tfgradgen.cli.commands import main
from tfgradgen.models.text import load_text_model

pytestmark = pytest.mark.usefixtures("quick_runs")

SMALL = ["compare", "--num_chains=5", "--num_gradients=10", "--kernels=mala,rejection", "--out=c"]


@pytest.fixture(scope="module")
def flags_of_models(toy_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("text")
    pair = [f"--generator={toy_pair[0]}", f"--classifier={toy_pair[1]}"]
    return [*pair, *save_observers(folder), f"--text_model={standins_text.clip(folder / 'clip')}"]


@pytest.fixture
def command(flags_of_models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return [*SMALL, *flags_of_models]


def report(out: str = "c") -> dict[str, Any]:
    return dict(json.loads((Path(out) / "report.json").read_text()))


def test_a_text_is_compared_without_the_opinion_of_a_judge(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*command, "--text=a red fish"])
    shown, found = capsys.readouterr().out, report()
    assert "without  judge accuracy and judge log p: the judge knows classes, no texts" in shown
    assert found["labels"] == ["a red fish"]
    for row in ("mala", "rejection", "prior"):
        measured = found["rows"][row]["values"]
        assert {"log_natural", "vendi", "feature_distance", "mmd", "mmd_p", "c2st"} <= set(measured), row
        assert not {"judge_accuracy", "judge_log_prob", "kid"} & set(measured), row
    page = Path("c/report.md").read_text()
    assert "| judge accuracy" not in page
    assert "Left out: judge accuracy, judge log p (the judge knows classes, no texts" in page
    model = load_text_model(next(flag for flag in command if flag.startswith("--text_model")).partition("=")[2])
    assert found["record"]["text_model"] == model.classifier("a red fish").about
    assert found["record"]["arguments"]["text"] == "a red fish"
    assert "--text='a red fish'" in found["command"]
    assert "--labels" not in found["command"]


def test_cells_of_the_same_text_are_kept_and_others_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class of the judge with a text is no class of the judge."""
    captions = tmp_path / "captions.txt"
    captions.write_text("a blue sky\n")
    with_captions = [*with_flags(command, "--kernels=rejection"), "--text=red", f"--reference_captions={captions}"]
    main([*with_captions, "--labels=goldfish"])
    first = report()
    assert first["labels"] == ["goldfish & red"]
    assert "judge_accuracy" in first["left_out"]
    cells = {path: path.stat().st_mtime_ns for path in Path("c/cells").rglob("*.npz")}
    main([*with_captions, "--labels=goldfish", "--resume"])
    assert {path: path.stat().st_mtime_ns for path in cells} == cells
    assert report()["rows"] == first["rows"]
    captions.write_text("a green sky\n")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*with_captions, "--labels=goldfish", "--resume"])
    assert "resume: expected text_model.captions_sha256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--text=a redd fish"], "did you mean red"),
        (["--labels=goldfish"], "a --text that it is about"),
        (["--text=red", "--labels=gold"], "did you mean goldfish"),
        ([], "give --labels=A,B or --text=WORDS"),
    ],
)
def test_mistakes_are_told_before_tensorflow_starts(
    given: list[str], said: str, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise AssertionError("TensorFlow was started")

    monkeypatch.setattr("tfgradgen.cli.commands._load_tensorflow", fails)
    assert said in refused([*command, *given], capsys)
