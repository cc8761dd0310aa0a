"""Runs that are divided into blocks give the same bits in this process and on workers, whatever is lost or stopped."""

import json
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.command import CTRL_C, refused, stop_after
from tests.support.fleets import HereFleet, on_fleet
from tfgradgen.cli import remote_run
from tfgradgen.cli.commands import main
from tfgradgen.engine.blocks import block_seed
from tfgradgen.engine.schedule import LOOKAHEAD
from tfgradgen.engine.work import Reply

pytestmark = pytest.mark.usefixtures("quick_runs")

LABELS = ("goldfish", "alp")
COMMAND = ["sample", "--label=goldfish,alp", "--kernel=mala", "--num_chains=5", "--block=2"]
COMMAND += ["--num_results=45", "--num_burnin_steps=25"]
DEVICES = ["--devices=all"]  # `on_fleet` replaces them


def same(one: str, other: str, *labels: str) -> None:
    for label in labels or LABELS:
        assert Path(one, label, "samples.npz").read_bytes() == Path(other, label, "samples.npz").read_bytes(), label


@pytest.fixture
def whole(toy_flags: list[str]) -> str:
    """The divided run in this process."""
    main([*COMMAND, *toy_flags, "--out=whole"])
    return "whole"


def test_a_block_is_the_run_of_its_chains_with_its_seed(whole: str, toy_flags: list[str]) -> None:
    seeds = [block_seed(0, k) for k in range(3)]
    parts = []
    for seed, num_chains in zip(seeds, (2, 2, 1), strict=True):
        flags = [*COMMAND[2:3], f"--num_chains={num_chains}", *COMMAND[5:], f"--seed={seed}"]
        main(["sample", "--label=alp", *flags, *toy_flags, f"--out=part{seed}"])
        with np.load(f"part{seed}/samples.npz") as samples:
            parts.append(samples["z"])
    with np.load("whole/alp/samples.npz") as samples:
        np.testing.assert_array_equal(samples["z"], np.concatenate(parts, 1))
    record = json.loads(Path("whole/alp/run.json").read_text())
    assert record["arguments"]["block"] == 2
    assert record["prior_draws"] == record["num_scored"] == 5 * 256
    assert len(np.unique(record["step_size"])) == 3


def test_a_run_without_a_block_records_none(toy_flags: list[str]) -> None:
    main(["sample", "--label=alp", *COMMAND[2:4], *COMMAND[5:], *toy_flags, "--out=plain"])
    assert "block" not in json.loads(Path("plain/run.json").read_text())["arguments"]


@pytest.mark.parametrize("lost_at", [(), (2, 9, 10)], ids=str)
def test_workers_draw_the_same_bits(lost_at: tuple[int, ...], whole: str, toy_flags: list[str]) -> None:
    fleet = HereFleet(lost_at)
    with on_fleet(fleet) as engine:
        main([*COMMAND, *toy_flags, *DEVICES, "--out=far"])
    same(whole, "far")
    assert engine.scheduler.num_lost == len(lost_at)
    records = [json.loads(Path(name, "alp/run.json").read_text()) for name in (whole, "far")]
    for record in records:
        del record["seconds"], record["arguments"]["out"]
    assert records[0] == records[1]
    assert sorted(path.name for path in Path().iterdir()) == ["far", "whole"]


def test_a_batch_of_labels_is_one_block(toy_flags: list[str]) -> None:
    command = ["sample", "--label=goldfish,alp", *COMMAND[2:4], *COMMAND[5:], *toy_flags]
    main([*command, "--out=near"])
    with on_fleet(HereFleet()):
        main([*command, *DEVICES, "--out=far"])
    same("near", "far")


def test_rejection_runs_one_block_a_label(toy_flags: list[str]) -> None:
    command = ["sample", "--label=all", "--kernel=rejection", "--num_chains=2", "--num_results=30", *toy_flags]
    main([*command, "--out=near"])
    with on_fleet(HereFleet((4,))):
        main([*command, *DEVICES, "--out=far"])
    same("near", "far", "goldfish", "king_penguin", "alp")


@pytest.mark.parametrize("way", [[], DEVICES], ids=["near", "far"])
def test_an_interrupted_run_of_blocks_goes_on_here_or_there(
    way: list[str], whole: str, toy_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*COMMAND, *toy_flags, "--out=cut"]
    capsys.readouterr()
    with on_fleet(HereFleet()), pytest.MonkeyPatch.context() as patch:
        stop_after(7, CTRL_C, patch)
        line = refused([*command, *way], capsys, 130)
        assert "--resume goes on with it" in line
    assert any(Path("cut").glob("*.partial/block-*/checkpoint.npz"))
    other = [] if way else DEVICES
    with on_fleet(HereFleet()):
        main([*command, *other, "--resume"])
    same(whole, "cut")
    assert not [*Path("cut").glob("*.partial")]


def test_a_finished_run_of_blocks_is_extended(whole: str, toy_flags: list[str]) -> None:
    fewer = [word for word in COMMAND if not word.startswith("--num_results")]
    main([*fewer, "--num_results=20", *toy_flags, "--out=long"])
    with on_fleet(HereFleet((3,))):
        main([*COMMAND, *toy_flags, *DEVICES, "--out=long", "--resume"])
    same(whole, "long")


@pytest.mark.parametrize("is_kept", [False, True])
def test_chunks_do_not_pile_up_in_the_command(is_kept: bool, toy_flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's memory does not grow with the number of draws: a few chunks exist at a time, unless someone keeps them."""
    alive: list[weakref.ref[Any]] = []
    most, kept, take = [0], list[Any](), remote_run.take

    def seen(reply: Reply) -> None:
        if reply.kind == "piece" and hasattr(reply.value.value, "draws"):
            most[0] = max(most[0], sum(ref() is not None for ref in alive))
            alive.append(weakref.ref(reply.value.value.draws.z))

    def keeping(store: Any, chunk: Any) -> None:
        kept.append(chunk)
        take(store, chunk)

    if is_kept:
        monkeypatch.setattr(remote_run, "take", keeping)
    num_workers = 2
    command = ["sample", "--label=alp", "--kernel=mala", "--num_chains=4", "--block=1", "--num_results=120", *toy_flags]
    with on_fleet(HereFleet(seen_fn=seen), num_workers):
        main([*command, *DEVICES, "--out=far"])
    assert (0 < most[0] <= num_workers * LOOKAHEAD + 2) != is_kept


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--block=0"], "block: expected an integer of at least 1, got 0"),
        (["--block=9"], "block: expected an integer in 1..3, got 9"),
        (["--block=1", "--kernel=rejection"], "block: expected a kernel that runs chains, such as mala, got rejection"),
        (["--block=1", "--kernel=surrogate"], "got surrogate, whose chains are not divided"),
        (
            ["--block=2", "--kernel=chees"],
            "block: expected at least 2 chains in each block for --kernel=chees, got a block of 1 of 3 chains",
        ),
        (["--address=auto"], "address: expected --engine=ray with it, got --engine=local"),
        (["--engine=spark"], "engine: expected one of local, ray, got 'spark'"),
        (["--engine=ray", "--address=here"], "address: expected auto or HOST:PORT, got 'here'"),
        (["--engine=ray", "--devices=all"], "devices: expected --engine=local with it, got --engine=ray"),
        (["--devices=gpu"], "devices: expected all, a number of GPUs, or their numbers as 0,2, got 'gpu'"),
        (["--devices=all"], "devices: expected a machine with a GPU, got none"),
        (["--block=1", "--time_budget=5s"], "time_budget: expected a run that is not divided, in this process, got --block=1"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line(flags: list[str], said: str, toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    kernel = [] if any("kernel" in flag for flag in flags) else ["--kernel=mala"]
    line = refused(["sample", "--label=alp", "--num_chains=3", *kernel, *flags, *toy_flags], capsys)
    assert said in line


def test_pools_are_evaluated_once_for_all_labels(whole: str, toy_flags: list[str]) -> None:
    """Two labels with three blocks need three pools, each evaluated by one worker before the first block."""
    calls: Counter[str] = Counter()
    fleet = HereFleet(seen_fn=lambda reply: calls.update([type(getattr(reply.value, "value", None)).__name__]))
    with on_fleet(fleet):
        main([*COMMAND, *toy_flags, *DEVICES, "--out=far"])
    owners = calls["tuple"] - 1  # one tuple says whether XLA can be used
    assert owners == 3
    same(whole, "far")
