"""Records are valid JSON whatever was sampled, and an invalid entry of a record that is read is refused by name."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.command import refused
from tests.support.records import a_record, npz, some_draws
from tfgradgen.cli.commands import main
from tfgradgen.core.arrays import check_arrays, read_npz
from tfgradgen.core.checks import UserError
from tfgradgen.core.files import finite, json_text
from tfgradgen.core.parsing import parsing
from tfgradgen.io.store import RunStore
from tfgradgen.results.files import read_run
from tfgradgen.results.record import run_record
from tfgradgen.results.summary import summary

pytestmark = pytest.mark.usefixtures("quick_runs")

BARE: Any = lambda name: pytest.fail(f"{name} is no JSON")  # noqa: E731


def test_numbers_that_are_not_finite_are_null() -> None:
    value = {
        "a": float("nan"),
        "b": [1.5, float("inf"), (-float("inf"), np.float64("nan"))],
        "c": {"d": np.float64(2.0)},
        "e": "NaN",
    }
    text = json_text(value)
    assert json.loads(text, parse_constant=BARE) == {"a": None, "b": [1.5, None, [None, None]], "c": {"d": 2.0}, "e": "NaN"}
    assert finite(True) is True


@pytest.mark.parametrize("kernel", ["mala", "rejection", "smc", "map"])
def test_the_record_of_a_run_that_is_not_finite_is_json_and_can_be_summed_up(kernel: str) -> None:
    draws = some_draws()
    draws.class_prob[:], draws.target_log_prob[2, 1], draws.step_size[:, 2] = np.nan, -np.inf, np.nan
    nan = float("nan")
    stats = {
        "accept_rate": nan,
        "prior_class_prob": nan,
        "prior_draws": 10,
        "num_gradients": 5,
        "num_forward": 5,
        "seconds": 1.0,
    }
    stats |= {"evidence": [nan, 0.5], "prior_draws": 0} if kernel == "smc" else {}
    planned = a_record() | {"kernel": kernel}
    from tfgradgen.mcmc.registry import SAMPLERS

    planned["arguments"] |= {
        "kernel_config": SAMPLERS[kernel].defaults.to_dict(),
        "schedule": {"num_results": 8, "num_burnin_steps": 2, "num_adaptation_steps": 1},
        "temperature": 1.0,
    }
    record = run_record(planned, draws, stats)
    assert json.loads(json_text(record), parse_constant=BARE) == record
    assert record["mean_class_prob"] is None
    said = summary(record, "out")
    assert "p(class) mean unknown" in said


def test_a_checkpoint_holds_json(tmp_path: Path) -> None:
    draws = some_draws()
    RunStore(tmp_path, {"temperature": float("nan")}).append(draws, {}, {"prior_class_prob": float("nan")})
    assert RunStore(tmp_path, {"temperature": float("nan")}).stats == {"prior_class_prob": None}


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("seconds", None, "whose seconds is not a duration"),
        ("seconds", 10**400, "whose seconds is not a duration"),
        ("seconds", float("nan"), "whose seconds is not a duration"),
        ("num_gradients", 10**400, "whose num_gradients is out of range"),
        ("num_gradients", "many", "whose num_gradients is not an integer"),
        ("kernel", "nuts2", "whose kernel is unknown to this version"),
        ("kernel", ["mala"], "whose kernel is not text"),
        ("label", {}, "whose label is incomplete"),
        ("alone", ["goldfish"], "whose alone is not text"),
        ("doubts", "none", "whose doubts is not a list of strings"),
        ("arguments", {"kernel_config": {"step_size": "large"}, "schedule": {"num_results": 8}}, "invalid kernel settings"),
        ("arguments", {"kernel_config": {"no_setting": 1}, "schedule": {"num_results": 8}}, "invalid kernel settings"),
        ("device", ..., "no entry 'device in run.json'"),
    ],
)
def test_a_record_of_wrong_types_is_one_line(
    entry: str,
    value: Any,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path.parent)
    record = a_record() | {entry: value}
    if value is ...:
        del record[entry]
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "samples.npz").write_bytes(npz(**some_draws()._asdict(), image=np.zeros((3, 8, 8, 3), np.uint8)))
    line = refused(["diagnose", tmp_path.name], capsys)
    assert said in line
    assert tmp_path.name in line


def test_a_bug_of_ours_shows_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not reported as a damaged file."""
    (tmp_path / "run.json").write_text(json.dumps(a_record()))
    (tmp_path / "samples.npz").write_bytes(npz(**some_draws()._asdict(), image=np.zeros((3, 8, 8, 3), np.uint8)))

    def broken(*args: Any) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("tfgradgen.cli.diagnose.diagnosis", broken)
    with pytest.raises(KeyError, match="ours"):
        main(["diagnose", str(tmp_path)])


def test_archives_are_bounded_before_they_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "samples.npz"
    np.savez_compressed(path, z=np.zeros((300, 1 << 10), np.float32))
    monkeypatch.setattr("tfgradgen.core.arrays.MAX_BYTES", 1 << 20)
    with (
        pytest.raises(UserError, match="more than 1,048,576 bytes when unpacked"),
        parsing("file", "draws", "give others"),
    ):
        read_npz(path)
    monkeypatch.setattr("tfgradgen.core.arrays.MAX_BYTES", 1 << 21)
    assert read_npz(path)["z"].shape == (300, 1 << 10)


def test_headers_of_arrays_are_held_to_their_bytes(tmp_path: Path) -> None:
    whole = npz(z=np.zeros((2, 3), np.float32))
    path = tmp_path / "a.npz"
    path.write_bytes(whole)
    sizes = check_arrays(read_npz(path), {"z": (np.float32, ("rows", 3))})
    assert sizes == {"rows": 2}
    for wrong in (
        {"z": np.zeros((2, 3), np.float64)},
        {"z": np.zeros((2, 4), np.float32)},
        {"z": np.zeros(6, np.float32)},
        {"z": np.array([None, {}], object)},
        {},
    ):
        path.write_bytes(npz(**wrong) if "z" not in wrong or wrong["z"].dtype != object else _pickled(wrong["z"]))
        with pytest.raises(UserError, match=r"^file: expected draws, got .+\.$"), parsing("file", "draws", "give others"):
            check_arrays(read_npz(path, ["z"]), {"z": (np.float32, ("rows", 3))})
    for descr, num in (("<U0", 10**9), ("<f4", 10**9), ("|V0", 2**70)):
        path.write_bytes(_of_no_bytes(descr, num))
        with pytest.raises(UserError, match=r"^file: expected draws, got .+\.$"), parsing("file", "draws", "give others"):
            check_arrays(read_npz(path, ["z"]), {"z": (np.float32, ("rows", 3))})


def _of_no_bytes(descr: str, num: int) -> bytes:
    """Return an archive of an array whose header declares `num` entries, with none after it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, archive.open("z.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": (num,)})
    return stream.getvalue()


def _pickled(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, z=array, allow_pickle=True)
    return stream.getvalue()


def test_a_run_without_draws_is_none(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(a_record()))
    (tmp_path / "samples.npz").write_bytes(npz(**some_draws(0)._asdict(), image=np.zeros((3, 8, 8, 3), np.uint8)))
    with pytest.raises(UserError, match="without draws"):
        read_run(tmp_path, "diagnose", "give another")
