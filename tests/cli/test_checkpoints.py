"""A checkpoint that is damaged, forged or from another run is refused in one line and left unchanged."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy
from tests.support.command import CTRL_C, SEVERAL, SMALL, STEPS, refused, stop_after
from tfgradgen.cli.commands import main
from tfgradgen.core.arrays import read_npz
from tfgradgen.io.store import CHECKPOINT, DIGEST_BYTES, digest

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"--seed": "1"}, "resume: expected --seed=0 as in run.partial, got --seed=1; give the same value"),
        ({"--num_results": "49"}, "at least the --num_results=50 of the run in run.partial, got --num_results=49"),
        ({"--kernel": "hmc"}, "--kernel=mala as in run.partial, got --kernel=hmc"),
        ({"--label": "alp"}, "label index 0"),
        ({"--temperature": "2.0"}, "expected --temperature=1.0"),
    ],
)
def test_another_run_s_checkpoint_is_refused(
    change: dict[str, str], text: str, interrupted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    kept = [word for word in interrupted if word.split("=")[0] not in change]
    line = refused([*kept, *(f"{flag}={value}" for flag, value in change.items()), "--resume"], capsys)
    assert text in line
    assert Path("run.partial", CHECKPOINT).exists()


def test_another_model_s_checkpoint_is_refused(
    interrupted: list[str], toy_pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    card = json.loads((toy_pair[1] / "model.json").read_text())
    toy.save(Path("other"), lambda image: tf.reduce_mean(image, [1, 2]) * 3.0, [None, 8, 8, 3], card)
    kept = [word for word in interrupted if not word.startswith("--classifier")]
    assert "classifier sha256" in refused([*kept, "--classifier=other", "--resume"], capsys)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (CHECKPOINT, lambda data: data[:-200]),
        (CHECKPOINT, lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 255]) + data[len(data) // 2 + 1 :]),
        (CHECKPOINT, lambda data: b""),
        ("z.raw", lambda data: data[:100]),
        ("class_prob.raw", lambda data: bytes([data[0] ^ 1]) + data[1:]),
        ("is_accepted.raw", None),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    name: str, damage: Any, toy_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*SMALL, "--kernel=mala", *STEPS["mala"], *toy_flags, "--out=run"]
    with pytest.MonkeyPatch.context() as patch:
        stop_after(5, KeyboardInterrupt(), patch)  # some draws are kept by then
        refused(command, capsys, 130)
    path = tmp_path / "run.partial" / name
    path.write_bytes(damage(path.read_bytes())) if damage else path.unlink()
    line = refused([*command, "--resume"], capsys)
    assert "got a damaged one" in line
    assert "start over with --overwrite" in line
    main([*command, "--overwrite"])
    assert Path("run/samples.npz").exists()
    assert not Path("run.partial").exists()


def setting(**arrays: Any) -> Callable[[dict[str, np.ndarray]], Any]:
    return lambda state: state.update({f"state_{name}": np.asarray(value) for name, value in arrays.items()})


STATES: dict[str, list[Callable[[dict[str, np.ndarray]], Any]]] = {
    "mala": [
        *(lambda state, name=name: state.pop(f"state_{name}") for name in ("num_done", "z", "cost", "class_mean", "kernel_0")),
        setting(num_done=np.zeros(3, np.int64)),
        setting(num_done=10**6),
        setting(num_done=-1),
        setting(z=np.zeros((1, 6), np.float32)),
        setting(kernel_0=np.zeros(3, "U3")),
        setting(kernel_99=np.zeros(3)),
    ],
    "replica_exchange": [setting(cost=np.zeros(2)), setting(kernel_1=np.zeros(7))],
    "rejection": [
        lambda state: state.pop("state_num_drawn"),
        setting(z=np.zeros((4, 5), np.float32)),
        setting(class_prob=np.zeros(99, np.float32)),
        setting(num_drawn=0),
        setting(num_rows=10**6),
        setting(sum_prob="much"),
    ],
    "smc": [
        lambda state: state.pop("state_moves"),
        lambda state: state.pop("state_log_prob"),
        setting(ladder=np.zeros(3)),
        setting(stage=99.0),
        setting(evidence=np.zeros(9)),
        setting(inverse_temperature=2.0),
    ],
    "hvi": [
        lambda state: state.pop("state_moments"),
        setting(rows=np.zeros((3, 6), np.float32)),
        setting(num_learned=13),
        setting(num_done=-1),
        setting(z=np.zeros((3, 6), np.float32)),
        setting(log_weight=np.zeros(5000, np.float32)),
    ],
}
STATS: list[Callable[[dict[str, Any]], Any]] = [
    *(lambda stats, name=name: stats.pop(name) for name in ("start_cost", "num_gradients", "seconds")),
    *(lambda stats, value=value: stats.update(start_cost=value) for value in (None, [1], ["a", 2], {"a": 1})),
    lambda stats: stats.update(doubts=[3]),
    lambda stats: stats.update(prior_class_prob="x"),
    lambda stats: stats.update(prior_draws=[1]),
    lambda stats: stats.update(num_not_finite=0.5),
    lambda stats: stats.update(exact_starts="all"),
    lambda stats: stats.update(num_results="50"),
    lambda stats: stats.update(evidence=3),
    lambda stats: stats.update(fit=[1.0]),
    lambda stats: stats.update(fit={"bound": "low"}),
    lambda stats: stats.update(learned=["surrogate"]),
    lambda stats: stats.update(learned={"proposals": "mine"}),
    lambda stats: stats.update(learned={"proposals": "prior", "prior": {"pareto_k": "low"}}),
]


def change_checkpoint(path: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    """Change the checkpoint and update its digest."""
    arrays = read_npz(io.BytesIO(path.read_bytes()[:-DIGEST_BYTES]))
    change(arrays)
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    path.write_bytes(stream.getvalue() + digest(stream.getvalue()))


def change_stats(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the statistics of the run so far, and update the digest of the checkpoint."""

    def in_header(arrays: dict[str, np.ndarray]) -> None:
        header = json.loads(arrays["header"].tobytes())
        change(header["facts"])
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)

    change_checkpoint(path, in_header)


def is_refused_as_damaged(command: list[str], path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    before = path.read_bytes()
    line = refused([*command, "--resume"], capsys)
    assert "run.partial" in line
    assert "start over with --overwrite" in line
    assert path.read_bytes() == before, "it is left as it is"
    return line


@pytest.mark.parametrize("kernel", STATES)
def test_a_checkpoint_with_another_state_is_refused(
    kernel: str, toy_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command, path = [*SMALL, f"--kernel={kernel}", *STEPS[kernel], *toy_flags, "--out=run"], Path("run.partial", CHECKPOINT)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(2, KeyboardInterrupt(), patch)
        refused(command, capsys, 130)
    whole = path.read_bytes()
    for change in STATES[kernel]:
        path.write_bytes(whole)
        change_checkpoint(path, change)
        assert f"a damaged one: {CHECKPOINT} holds" in is_refused_as_damaged(command, path, capsys)
    path.write_bytes(whole)
    main([*command, "--resume"])


def test_a_checkpoint_with_other_statistics_is_refused(interrupted: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("run.partial", CHECKPOINT)
    whole = path.read_bytes()
    for change in STATS:
        path.write_bytes(whole)
        change_stats(path, change)
        is_refused_as_damaged(interrupted, path, capsys)
    path.write_bytes(whole)
    main([*interrupted, "--resume"])


@pytest.mark.parametrize(
    "change",
    [
        lambda stats: stats.pop("labels"),
        lambda stats: stats.update(labels=stats["labels"][:1]),
        lambda stats: stats.update(labels=3),
        lambda stats: stats["labels"][0].pop("num_gradients"),
        lambda stats: stats["labels"][1].update(prior_class_prob="x"),
    ],
)
def test_a_batch_s_checkpoint_with_other_statistics_is_refused(
    change: Callable[[dict[str, Any]], Any], toy_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command, path = [*SEVERAL, "--out=runs", *toy_flags], Path("runs/labels.batch.partial", CHECKPOINT)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, CTRL_C, patch)
        refused(command, capsys, 130)

    change_stats(path, change)
    line = refused([*command, "--resume"], capsys)
    assert "start over with --overwrite" in line
