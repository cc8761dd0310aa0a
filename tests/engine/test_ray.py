"""A cluster of three nodes on this machine, of which a worker and a node are killed in the middle of a run."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tensorflow as tf

from tests.support import toy
from tests.support.command import refused
from tfgradgen.cli import remote_run
from tfgradgen.cli.commands import main

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


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flags that name a toy pair with four classes."""
    monkeypatch.chdir(tmp_path)

    def generate(z: tf.Tensor) -> tf.Tensor:
        return tf.tanh(tf.reshape(tf.tile(z, [1, 32]), [-1, 8, 8, 3]))

    def classify(image: tf.Tensor) -> tf.Tensor:
        mean = tf.reduce_mean(image, [1, 2]) * 4.0
        return tf.concat([mean, -mean[:, :1]], 1)

    card = {"image_range": [-1, 1], "output": "logits", "labels": list(LABELS)}
    generator = toy.save(tmp_path / "g", generate, [None, 6], {"latent_dim": 6, "image_range": [-1, 1], "prior": "normal"})
    return [f"--generator={generator}", f"--classifier={toy.save(tmp_path / 'c', classify, [None, 8, 8, 3], card)}"]


def workers() -> list[psutil.Process]:
    """The processes of the workers, oldest first."""
    found = []
    for process in psutil.process_iter(["name", "cmdline", "create_time"]):
        words = process.info["cmdline"] or [process.info["name"] or ""]
        if words and words[0].startswith("ray::Actor") and process.uids().real == os.getuid():
            found.append(process)
    return sorted(found, key=lambda process: process.info["create_time"])


@pytest.mark.usefixtures("quick_runs")
def test_a_killed_worker_and_a_killed_node_change_no_bit(
    cluster: Any, pair: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 chains of four labels run in eight blocks. Every chunk comes once, so lost blocks continued from their checkpoints."""
    main([*COMMAND, *pair, "--out=near"])
    killed: list[str] = []
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

    monkeypatch.setattr(remote_run, "take", counted)
    schedulers: list[Any] = []
    real = remote_run.RemoteRuns.run

    def seen(self: Any, jobs: Any) -> None:
        schedulers.append(self._engine.scheduler)
        real(self, jobs)

    monkeypatch.setattr(remote_run.RemoteRuns, "run", seen)
    main([*COMMAND, *pair, "--out=far", "--engine=ray", f"--address={cluster.address}"])
    assert len(killed) == 2
    assert schedulers[0].num_lost >= 2
    assert count[0] == 8 * PIECES
    for label in LABELS:
        assert Path("near", label, "samples.npz").read_bytes() == Path("far", label, "samples.npz").read_bytes()
    with np.load("far/one/samples.npz") as samples:
        assert samples["z"].shape == (230, 16, 6)


def test_no_cluster_and_no_ray_are_one_line(
    pair: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*COMMAND, *pair, "--out=none", "--engine=ray"]
    line = refused([*flags, "--address=127.0.0.1:1"], capsys)
    assert "address: expected the head of a Ray cluster, got 127.0.0.1:1 (Connection refused); check HOST:PORT" in line
    monkeypatch.setitem(sys.modules, "ray", None)
    line = refused(flags, capsys)
    assert "engine: expected Ray: pip install 'tfgradgen[ray]', got none" in line
