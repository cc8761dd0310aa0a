"""One process for each device: two processes that see no GPU stand for two devices."""

import multiprocessing
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tfgradgen as tg
from tests.support.command import CTRL_C, refused, stop_after
from tests.support.fleets import on_engine
from tfgradgen.cli.commands import main
from tfgradgen.core.checks import UserError
from tfgradgen.engine import devices
from tfgradgen.engine.engine import Place, running

COMMAND = ["sample", "--label=goldfish,alp", "--kernel=mala", "--num_chains=4", "--block=2", "--num_results=90"]
COMMAND += ["--num_burnin_steps=20", "--init=prior"]


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(devices, "found_devices", lambda: ["", ""])
    monkeypatch.setenv("PYTHONPATH", str(root))


@pytest.mark.usefixtures("quick_runs", "two_devices")
def test_processes_draw_the_same_bits_and_can_be_stopped(
    toy_flags: list[str], toy_pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Python and a command draw on the same processes, which end with Ctrl-C; the command can continue in this process."""
    main([*COMMAND, *toy_flags, "--out=near"])
    posterior = tg.ClassPosterior(tg.load_generator(toy_pair[0]), tg.load_classifier(toy_pair[1]), "alp")
    counts: dict[str, Any] = {"num_chains": 4, "num_results": 90, "num_burnin_steps": 20, "init": "prior", "block": 2}
    here = tg.sample(posterior, "mala", **counts)
    place = Place(devices="all")
    with suppress(KeyboardInterrupt), running(place) as engine:
        assert engine
        with on_engine(engine) as places:
            there = tg.sample(posterior, "mala", **counts, devices="all")
            capsys.readouterr()
            with pytest.MonkeyPatch.context() as patch:
                stop_after(5, CTRL_C, patch)
                line = refused([*COMMAND, *toy_flags, "--devices=all", "--out=far"], capsys, 130)
        assert places == [place, place]
        assert len(multiprocessing.active_children()) == 2
        raise CTRL_C
    assert not multiprocessing.active_children()
    assert "--resume goes on with it" in line
    main([*COMMAND, *toy_flags, "--out=far", "--resume"])
    for label in ("goldfish", "alp"):
        assert Path("near", label, "samples.npz").read_bytes() == Path("far", label, "samples.npz").read_bytes()
    assert devices.VISIBLE not in os.environ or os.environ[devices.VISIBLE] != ""
    with np.load("near/alp/samples.npz") as samples:
        np.testing.assert_array_equal(here.z, samples["z"])
    np.testing.assert_array_equal(there.z, here.z)


@pytest.mark.parametrize(
    ("wanted", "known", "found"),
    [("all", ["0", "1"], ["0", "1"]), ("1", ["4", "5"], ["4"]), ("0,2", ["0", "1", "2"], ["0", "2"])],
)
def test_devices_are_chosen(wanted: str, known: list[str], found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "found_devices", lambda: known)
    assert devices.chosen_devices(wanted) == found


@pytest.mark.parametrize("wanted", ["3", "0", "0,2", "1,1"])
def test_devices_that_are_not_there(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "found_devices", lambda: ["0", "1"])
    with pytest.raises(UserError, match=r"devices: expected (at most the 2 GPUs|different numbers below 2)"):
        devices.chosen_devices(wanted)
