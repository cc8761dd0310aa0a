"""The README says what is so: its commands, its Python, its links."""

import re
from pathlib import Path
from typing import Any

import pytest

from tfgradgen.cli.options import FLAGS


def test_commands_are_those_of_the_gate_and_of_the_shipped_tests(root: Path) -> None:
    text, ci = (root / "README.md").read_text(), (root / ".ci" / "run").read_text()
    assert "-m tfgradgen sample --label=goldfish --kernel=mala" in text
    for part in ("pip install -q -e '.[test]'", "python tools/gate.py"):
        assert part in text
        assert part in ci
    known = {f"--{flag}" for flag in FLAGS} | {"--help"}
    assert set(re.findall(r"--[a-z_]+", text)) <= known


def test_links_and_pictures_exist(root: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", (root / "README.md").read_text()):
        assert (root / target).exists(), target


def test_the_python_example_runs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, but with two chains of a few steps."""
    (code,) = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.S)
    for whole, short in (("num_chains=16", "num_chains=2"), ("mala.schedule", "tg.Schedule(2, 2, 1)")):
        assert whole in code
        code = code.replace(whole, short)
    monkeypatch.chdir(root)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["pictures"].shape == (2, 64, 64, 3)
    assert names["draws"].z.shape == (2, 2, 76)
