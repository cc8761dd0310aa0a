"""Shared fixtures. TensorFlow is started once, quietly, as by the command line."""

import gc
import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.gate import ONE_CORE, SLOW_FILE, read_slow

if "PYTEST_XDIST_WORKER" in os.environ:  # before NumPy and TensorFlow start their threads
    os.environ.update(ONE_CORE | os.environ)

import numpy as np
import pytest

from tfgradgen.core.quiet import start_tensorflow

start_tensorflow()
pytest.register_assert_rewrite("tests.support")

from tests.support import toy  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests in slow.txt; files with slow tests come first, so that no process is left alone with them at the end."""
    seconds = read_slow(SLOW_FILE)
    for item in items:
        if item.nodeid in seconds:
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Keep the modules out of garbage collections, which each traced graph causes: they took 7 % of the time."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def pytest_sessionfinish() -> None:
    """Spare the five collections of pytest's end what is left of all graphs."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def short_fits() -> Iterator[None]:
    """Fit the network of `surrogate` for two epochs only: the draws are exact whatever it has learned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfgradgen.mcmc.surrogate_net.MAX_EPOCHS", 2)
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give tests a cache of their own: no test reads or writes the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("TFGRADGEN_CACHE_DIR", raising=False)
        yield


@pytest.fixture(scope="module")
def shipped_cache(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[None]:
    """Use a cache that all processes share, for tests that need thousands of prior draws of the shipped models."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "shipped"
    folder.mkdir(mode=0o700, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFGRADGEN_CACHE_DIR", str(folder))
        yield


@pytest.fixture(scope="session")
def toy_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return toy.save_pair(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def toy_flags(toy_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return flags that name the toy pair; the working folder is empty."""
    monkeypatch.chdir(tmp_path)
    return [f"--generator={toy_pair[0]}", f"--classifier={toy_pair[1]}"]


@pytest.fixture
def same_weights() -> Iterator[None]:
    """Give layers of Keras the same chance weights in every run: it draws their seeds by Python's `random`."""
    before = random.getstate()
    random.seed(0)
    yield
    random.setstate(before)


@pytest.fixture(scope="session")
def loaded_once() -> dict[str, Any]:
    """Return the models that `shared_models` has loaded, by options."""
    return {}


@pytest.fixture
def shared_models(toy_pair: tuple[Path, Path], loaded_once: dict[str, Any]) -> Iterator[set[str]]:
    """Load the toy pair, and so compile the graphs of its runs, once for all commands in this process.

    Conditions that are equal are one object, so that their graphs are shared, too. Tests that write other models once can add
    the names of these to the set. Do not use it in tests of loading or compiling.
    """
    from tfgradgen.cli import check, compare, export, load, sample, tune

    shared = {str(path) for path in toy_pair}

    class Shared(load.Loaded):
        def targets(self, wanted: Any) -> list[Any]:
            return [conditions.setdefault(condition_of(target), target) for target in super().targets(wanted)]

    def condition_of(target: Any) -> Any:
        parts = getattr(target.classifier, "classifiers", [target.classifier])
        return getattr(target.classifier, "expression", None), target.index, *map(id, parts)

    def load_once(options: Any, gradient_precision: str = "float32") -> Any:
        if not {options.generator, *options.classifiers} <= shared or options.captions is not None:
            return load.load_models(options, gradient_precision)
        key = repr((options, gradient_precision))
        if key not in loaded_once:
            loaded_once[key] = Shared(*load.load_models(options, gradient_precision))
        return loaded_once[key]

    conditions = loaded_once.setdefault("conditions", {})
    with pytest.MonkeyPatch.context() as patch:  # its own, so that a test's `undo` does not remove it
        for module in (check, compare, export, sample, tune):
            patch.setattr(module, "load_models", load_once)
        yield shared


@pytest.fixture
def sketched_plots() -> Iterator[None]:
    """Make plots.png a sketch of the digest of the draws, which takes no time. Do not use it in tests of plots."""
    from PIL import Image

    from tfgradgen.core.contracts import Draws
    from tfgradgen.results import files

    def sketch(draws: Draws, title: str = "", *_: Any) -> Image.Image:
        digest = hashlib.sha256(title.encode())
        for column in draws:
            digest.update(np.ascontiguousarray(column).tobytes())
        return Image.frombytes("L", (len(digest.digest()), 1), digest.digest())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "plot_chains", sketch)
        yield


@pytest.fixture
def quick_runs(shared_models: set[str], sketched_plots: None) -> None:
    """Run commands on the toy pair without what takes most of their time. Do not use it in tests of that."""


@pytest.fixture
def untuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export with given step sizes, because tuning them takes most of the time."""
    from tfgradgen.serving.adapt import Adapted

    monkeypatch.setattr("tfgradgen.cli.export.adapt", lambda *args: Adapted(1.0, 0.5, ["a warning"]))


@pytest.fixture(scope="session")
def served(toy_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an export of the toy pair with every signature, its version 1; tests must not change it."""
    from tfgradgen.cli.commands import main

    base = tmp_path_factory.mktemp("served") / "toys"
    few = [
        "--num_chains=2",
        "--num_steps=5",
        "--max_steps=12",
        "--num_start_draws=8",
        "--batch_sizes=1,3",
        "--batched=4",
        "--xla",
    ]
    main(["export", "--kernel=mala", f"--generator={toy_pair[0]}", f"--classifier={toy_pair[1]}", *few, f"--out={base}"])
    return base / "1"


@pytest.fixture
def interrupted(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return a command whose run was stopped after its first chunk."""
    from tests.support.command import SMALL, STEPS, refused, stop_after

    command = [*SMALL, "--kernel=mala", *STEPS["mala"], *toy_flags, "--out=run"]
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, KeyboardInterrupt(), patch)
        refused(command, capsys, 130)
    return command
