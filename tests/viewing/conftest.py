"""One run of the toy pair, as the command makes it."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def run(toy_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the run, which tests must not change. It has warnings, because four draws are few."""
    from tests.support.command import FAST
    from tfgradgen.cli.commands import main

    folder = tmp_path_factory.mktemp("viewed") / "run"
    models = [f"--generator={toy_pair[0]}", f"--classifier={toy_pair[1]}"]
    main(["sample", "--label=goldfish", "--kernel=mala", "--seed=3", *FAST, *models, f"--out={folder}"])
    return folder
