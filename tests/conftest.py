"""TensorFlow is started once, quietly, as the command line starts it."""

from pathlib import Path

import pytest

from tfgradgen.cli.quiet import start_tensorflow

start_tensorflow()

from tests.support import toy  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: where files are shared out among processes, none is left alone with them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def toy_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return toy.save_pair(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def toy_flags(toy_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flags that name the toy pair; the working folder is an empty one."""
    monkeypatch.chdir(tmp_path)
    return [f"--generator={toy_pair[0]}", f"--classifier={toy_pair[1]}"]


@pytest.fixture
def untuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export with given step sizes: to tune them takes most of its time."""
    from tfgradgen.serving.adapt import Adapted

    monkeypatch.setattr("tfgradgen.cli.export.adapt", lambda *args: Adapted(1.0, 0.5, ["a doubt"]))


@pytest.fixture(scope="session")
def served(toy_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the toy pair with every signature, its version 1; nobody may change it."""
    from tfgradgen.cli.commands import main

    base = tmp_path_factory.mktemp("served") / "toys"
    few = ["--num_chains=2", "--num_steps=5", "--max_steps=12", "--num_start_draws=8", "--batch_sizes=1,3", "--xla"]
    main(["export", "--kernel=mala", f"--generator={toy_pair[0]}", f"--classifier={toy_pair[1]}", *few, f"--out={base}"])
    return base / "1"
