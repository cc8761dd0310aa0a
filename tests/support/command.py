"""The command line as tests call it: short runs, refusals in one line, and runs that are stopped."""

import os
from pathlib import Path
from typing import Any

import pytest

from tfgradgen.cli.commands import main
from tfgradgen.io.store import CHECKPOINT

FAST = ["--num_results=4", "--num_burnin_steps=4", "--num_chains=3"]
FAST_MALA = ["--kernel=mala", *FAST]
SMALL = ["sample", "--label=goldfish", "--num_chains=3"]
STEPS = {  # more than two chunks for each
    "mala": ["--num_results=50", "--num_burnin_steps=50"],
    "rejection": ["--num_results=300"],
    "replica_exchange": ["--num_results=15", "--num_burnin_steps=15"],
    "hvi": ["--num_results=20", "--num_optimization_steps=12"],
    "smc": ["--num_results=20", "--ess_share=0.95"],
}
SEVERAL = ["sample", "--label=goldfish,alp", *FAST_MALA]
CTRL_C, FULL_DISK = KeyboardInterrupt(), OSError(28, "No space left on device")


def refused(argv: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """Run a command that must fail, and return its one line."""
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("tfgradgen: ")]
    assert (exit_.value.code, captured.out, len(lines)) == (code, "", 1)
    return lines[0]


def with_flags(command: list[str], *flags: str) -> list[str]:
    """Return `command` with `flags`, which replace those of the same names, because a flag may be given only once."""
    names = {flag.split("=")[0] for flag in flags}
    return [*(word for word in command if word.split("=")[0] not in names), *flags]


def stop_after(num_appends: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the store raise `error` when the checkpoint after `num_appends` would be renamed into place."""
    left, replace = [num_appends], os.replace

    def failing(source: Any, target: Any) -> None:
        left[0] -= Path(target).name == CHECKPOINT
        if left[0] < 0:
            raise error
        replace(source, target)

    monkeypatch.setattr("tfgradgen.io.store.os.replace", failing)
