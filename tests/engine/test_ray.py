"""A cluster of three nodes on this machine, of which a worker, a node and at last the head are killed in the middle of runs."""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tensorflow as tf

import tfgradgen as tg
from tests.support import toy
from tests.support.command import refused
from tests.support.fleets import on_engine
from tfgradgen.cli import remote, remote_run
from tfgradgen.cli.commands import main
from tfgradgen.cli.compare_options import parse_compare
from tfgradgen.cli.load import load_models
from tfgradgen.cli.remote_cells import RemoteCells, RemoteObjective
from tfgradgen.engine import models, posteriors
from tfgradgen.engine.engine import Engine, Place, running
from tfgradgen.evaluation.cells import prepare_label, run_cell
from tfgradgen.evaluation.method_specs import parse_method_spec
from tfgradgen.mcmc.recipe import default_recipe
from tfgradgen.posterior import ClassPosterior
from tfgradgen.tuning.objective import Objective, Problem

LABELS = ("one", "two", "three", "four")
COMMAND = ["sample", f"--label={','.join(LABELS)}", "--kernel=mala", "--num_chains=16", "--block=8"]
COMMAND += ["--num_results=230", "--num_burnin_steps=30", "--init=prior"]
PIECES = 2 + 12  # of a block: chunks of 20 transitions, one of which ends at the end of the burn-in
STORE = 100_000_000  # bytes of shared memory of a node
# Everything stays on the loopback interface, and nothing runs that the test does not need.
VARIABLES = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
FAST = {"health_check_period_ms": 500, "health_check_failure_threshold": 3, "health_check_initial_delay_ms": 1000}


@pytest.fixture(scope="module")
def cluster(root: Path) -> Iterator[Any]:
    """A head without workers, and two nodes with one worker each."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in VARIABLES.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])]))
        import matplotlib.font_manager  # noqa: F401  # its cache is made once, not by each worker
        import ray
        from ray.cluster_utils import Cluster

        place = {"node_ip_address": "127.0.0.1", "object_store_memory": STORE}
        made = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": FAST, **place}
        )
        try:
            for _ in range(2):
                made.add_node(num_cpus=1, wait=False, **place)
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy pair with four classes."""
    folder = tmp_path_factory.mktemp("ray")

    def generate(z: tf.Tensor) -> tf.Tensor:
        return tf.tanh(tf.reshape(tf.tile(z, [1, 32]), [-1, 8, 8, 3]))

    def classify(image: tf.Tensor) -> tf.Tensor:
        mean = tf.reduce_mean(image, [1, 2]) * 4.0
        return tf.concat([mean, -mean[:, :1]], 1)

    card = {"image_range": [-1, 1], "output": "logits", "labels": list(LABELS)}
    toy.save(folder / "g", generate, [None, 6], {"latent_dim": 6, "image_range": [-1, 1], "prior": "normal"})
    toy.save(folder / "c", classify, [None, 8, 8, 3], card)
    return folder


@pytest.fixture
def pair(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flags that name the pair; the working folder is that of all tests here."""
    monkeypatch.chdir(folder)
    return [f"--generator={folder / 'g'}", f"--classifier={folder / 'c'}"]


@pytest.fixture
def near(pair: list[str], quick_runs: None) -> Path:
    """The folder of the run in this process, which is made once."""
    if not Path("near").exists():
        main([*COMMAND, *pair, "--out=near"])
    return Path("near")


@pytest.fixture(scope="module")
def far(cluster: Any) -> Iterator[Engine]:
    """An engine with the workers of the cluster: one is left after the first test."""
    with running(Place("ray", cluster.address)) as engine:
        assert engine
        yield engine


def workers() -> list[psutil.Process]:
    """The processes of the workers, oldest first."""
    found = []
    for process in psutil.process_iter(["name", "cmdline", "create_time"]):
        words = process.info["cmdline"] or [process.info["name"] or ""]
        if words and words[0].startswith("ray::Actor") and process.uids().real == os.getuid():
            found.append(process)
    return sorted(found, key=lambda process: process.info["create_time"])


def wait_for_no_worker() -> None:
    end = time.monotonic() + 30
    while workers():
        assert time.monotonic() < end, "workers are left"
        time.sleep(0.2)


def test_a_killed_worker_a_killed_node_and_ctrl_c_change_no_bit(
    cluster: Any,
    pair: list[str],
    near: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    """64 chains of four labels run in eight blocks. Every chunk comes once, so lost blocks continued from their checkpoints.

    Ctrl-C ends the workers and keeps what was drawn; the rest is drawn by another one.
    """
    killed: list[str] = []
    stopped: list[int] = []
    schedulers: list[Any] = []
    count, take = [0], remote_run.take

    def counted(store: Any, chunk: Any) -> None:
        take(store, chunk)
        count[0] += 1
        if count[0] == PIECES // 2:
            worker = workers()[0]
            killed.append(worker.cmdline()[0])
            os.kill(worker.pid, signal.SIGKILL)
        if count[0] == 4 * PIECES + 5:
            killed.append("node")
            cluster.remove_node(sorted(cluster.worker_nodes, key=id)[0], allow_graceful=False)
        if len(killed) == 2 and schedulers[0].num_lost < 2:
            time.sleep(0.1)  # until the loss of the node is noticed, pieces come slowly
        elif count[0] > 6 * PIECES and not stopped:
            stopped.append(count[0])
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(remote_run, "take", counted)
    real = remote_run.RemoteRuns.run

    def seen(self: Any, jobs: Any) -> None:
        schedulers.append(self._engine.scheduler)
        real(self, jobs)

    monkeypatch.setattr(remote_run.RemoteRuns, "run", seen)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what it runs in the background
    command = [*COMMAND, *pair, "--out=far", "--engine=ray", f"--address={cluster.address}"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(command)
    line = capsys.readouterr().err.splitlines()[-1]
    assert exit_.value.code == 130
    assert re.match(r"tfgradgen: interrupted; what was drawn is in far/\w+\.partial, --resume goes on with it", line)
    assert ": python -m tfgradgen sample" in line
    assert "--resume" in line.split("sample")[-1]
    assert len(killed) == 2
    assert schedulers[0].num_lost >= 2
    assert stopped == count
    wait_for_no_worker()
    with on_engine(request.getfixturevalue("far")) as places:
        main([*command, "--resume"])
    assert places == [Place("ray", cluster.address)]
    assert count[0] == 8 * PIECES
    for label in LABELS:
        assert (near / label / "samples.npz").read_bytes() == Path("far", label, "samples.npz").read_bytes()
    with np.load("far/one/samples.npz") as samples:
        assert samples["z"].shape == (230, 16, 6)


@pytest.mark.usefixtures("cluster")  # it imports Ray, which reads the variables then
def test_no_cluster_and_no_ray_are_one_line(
    pair: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*COMMAND, *pair, "--out=none", "--engine=ray"]
    line = refused([*flags, "--address=127.0.0.1:1"], capsys)
    assert "address: expected the head of a Ray cluster, got 127.0.0.1:1 (Connection refused); check HOST:PORT" in line
    monkeypatch.setitem(sys.modules, "ray", None)
    line = refused(flags, capsys)
    assert "engine: expected Ray: pip install 'tfgradgen[ray]', got none" in line


@pytest.mark.usefixtures("cluster")
def test_a_head_that_misses_one_look_after_a_long_pause_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    from tfgradgen.engine import ray_workers

    now, why = [0.0], [""]
    monkeypatch.setattr(ray_workers.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ray_workers, "unreachable", lambda address: why[0])
    head = ray_workers.Head("127.0.0.1:1")
    for now[0], why[0] in ((3.0, ""), (300.0, "refused"), (310.0, ""), (320.0, "refused"), (330.0, "refused")):
        head.check()
    now[0] = 336.0
    with pytest.raises(tg.UserError, match=r"got none at 127\.0\.0\.1:1 \(refused\)"):
        head.check()


@pytest.fixture
def sent_away(pair: list[str], folder: Path) -> Iterator[None]:
    """The folders of the models are renamed as soon as they are sent: workers cannot read them, as on other machines."""
    away = {folder / name: folder / f"{name}.away" for name in "gc"}

    def send(handles: Any, share_fn: Any) -> models.Sent:
        found = models.send(handles, share_fn)
        for here, there in away.items():
            here.rename(there)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "send", send)
        patch.setattr(posteriors, "send", send)
        yield
    for here, there in away.items():
        if there.exists():
            there.rename(here)


class TestOneWorker:
    """What else can run on a worker of the cluster. One serves all tests here, because its start takes most of the time."""

    def test_the_parts_of_compare_and_tune_are_the_same_there(self, far: Engine, pair: list[str], sent_away: None) -> None:
        flags = dict(flag[2:].split("=") for flag in pair)
        options = parse_compare({"labels": "one", "kernels": "mala", "num_chains": 5, "num_gradients": 20, **flags})
        loaded, run, method = load_models(options.pair.models), options.pair.run, parse_method_spec("mala", options.class_reg)
        posterior = ClassPosterior.of(loaded.networks(loaded.targets("one")[0]), 0)
        silent: Any = lambda *_: None  # noqa: E731
        objective = Objective({"one": posterior}, run, 60)
        problem = Problem("one", 0, 0)
        recipe = default_recipe("mala").changed({"num_burnin_steps": 5, "num_adaptation_steps": 5})
        reference = prepare_label(posterior, run, silent)
        cell = run_cell(posterior, method, reference, run, [10, 20], silent)
        measured = objective.measure(recipe, problem, silent)

        distant = remote.remote_of(far, options.pair.models, loaded)
        cells, found = RemoteCells(distant, options, [10, 20]), dict[str, Any]()
        cells.make_references(["one"], lambda name, value: found.update({name: value}))
        cells.make_cells([(method, "one")], {"one": reference}, lambda spec, name, value: found.update({spec.name: value}))
        for ours, theirs in ((reference, found["one"]), (cell, found["mala"])):
            for name in ours._fields:
                np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name), err_msg=name)
        there = RemoteObjective(distant, replace(options.pair, label="one"), objective)
        assert there.measure(recipe, problem, silent)._replace(seconds=0) == measured._replace(seconds=0)

    def test_python_draws_the_same_there(self, far: Engine, cluster: Any, folder: Path, sent_away: None) -> None:
        """The place is the one that is asked for; the command finds the cluster in the same way."""
        posterior = tg.ClassPosterior(tg.load_generator(folder / "g"), tg.load_classifier(folder / "c"), "two")
        counts: dict[str, Any] = {"num_chains": 4, "num_results": 20, "num_burnin_steps": 5, "init": "prior", "block": 2}
        with on_engine(far) as places:
            here = tg.sample(posterior, "mala", **counts)
            there = tg.sample(posterior, "mala", **counts, engine="ray", address=cluster.address)
        np.testing.assert_array_equal(there.z, here.z)
        assert there.record["num_gradients"] == here.record["num_gradients"]
        assert places == [Place(), Place("ray", cluster.address)]

    def test_the_loss_of_the_head_ends_the_command(
        self,
        far: Engine,
        cluster: Any,
        pair: list[str],
        near: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """What was drawn is kept, and the rest is drawn here. The last test: the head is gone."""
        from tfgradgen.engine import ray_workers

        command = [*COMMAND, *pair, "--out=cut", "--label=one"]
        command.remove(COMMAND[1])
        count, take = [0], remote_run.take

        def counted(store: Any, chunk: Any) -> None:
            take(store, chunk)
            count[0] += 1
            if count[0] == 4:
                cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
                time.sleep(1.5)
            if count[0] > 4:
                time.sleep(0.1)  # the run must not end before the loss is noticed

        monkeypatch.setattr(remote_run, "take", counted)
        monkeypatch.setattr(ray_workers, "HEAD_SECONDS", 0.5)
        monkeypatch.setattr(ray_workers, "LOOK_SECONDS", 0.2)
        capsys.readouterr()
        with on_engine(far):
            line = refused([*command, "--engine=ray", f"--address={cluster.address}"], capsys)
        assert f"engine: expected the head of the Ray cluster, got none at {cluster.address} (Connection refused)" in line
        assert "Go on with: python -m tfgradgen sample" in line
        assert 4 <= count[0] < 2 * PIECES
        main([*command, "--resume"])
        assert Path("cut/samples.npz").read_bytes() == (near / "one/samples.npz").read_bytes()
