"""The README says what is so: its commands, its Python, its links."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from tfgradgen.cli.compare_options import FLAGS as COMPARE_FLAGS
from tfgradgen.cli.export_options import FLAGS as EXPORT_FLAGS
from tfgradgen.cli.options import sample_flags
from tfgradgen.cli.tune_options import tune_flags


def test_commands_are_those_of_the_gate_and_of_the_shipped_tests(root: Path) -> None:
    text, ci = (root / "README.md").read_text(), (root / ".ci" / "run").read_text()
    assert "-m tfgradgen sample --label=goldfish --kernel=mala" in text
    for part in ("pip install -q -e '.[test]'", "python tools/gate.py"):
        assert part in text
        assert part in ci
    known = {f"--{flag}" for flag in sample_flags()} | {"--help"}
    of_commands = {"compare": COMPARE_FLAGS, "export": EXPORT_FLAGS, "tune": tune_flags()}
    own = {name: {f"--{flag}" for flag in flags} for name, flags in of_commands.items()}
    tools = {path.stem: flags_of(path) for path in (root / "tools").rglob("*.py") if "fire.Fire(main)" in path.read_text()}
    anywhere = known.union(*own.values(), *tools.values())  # a sentence may speak of any flag, a command takes its own
    for line in text.splitlines():
        called = re.search(r"python (?:-m )?tools[\w./]*?(\w+)(?:\.py)?(?= |`|$)", line)
        command = re.search(r"-m tfgradgen (\w+)", line)
        takes = tools.get(called[1], known) if called else own.get(command[1], anywhere) if command else anywhere
        assert set(re.findall(r"--[a-z_0-9]+", line)) <= takes, line


def flags_of(script: Path) -> set[str]:
    """The flags that Fire makes of a tool's `main`."""
    functions = [node for node in ast.parse(script.read_text()).body if isinstance(node, ast.FunctionDef)]
    (main,) = [node for node in functions if node.name == "main"]
    return {f"--{argument.arg}" for argument in (*main.args.args, *main.args.kwonlyargs)}


def test_links_and_pictures_exist(root: Path) -> None:
    text = (root / "README.md").read_text()
    headings = {"#" + title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", text, re.M)}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert target in headings or (root / target).exists(), target


def test_the_python_example_runs(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, but with two chains of a few steps."""
    (code,) = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.S)
    assert "num_chains=16" in code
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code.replace("num_chains=16", "num_chains=2, num_results=2, num_burnin_steps=2"), names)
    result, read = names["result"], names["tg"].load_run("out/x")
    assert result.record["label"]["name"] == "goldfish"
    assert (result.images.shape, result.z.shape) == ((2, 64, 64, 3), (2, 2, 84))
    assert (read.z.tolist(), read.summary()) == (result.z.tolist(), result.summary())


def stray_lines(text: str) -> list[str]:
    """The lines outside code that are one bare word: what an editor or a script left behind."""
    outside = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.M | re.S)
    return [line for line in outside.splitlines() if re.fullmatch(r"\w+", line.strip()) and not line.startswith("    ")]


def test_no_line_is_a_bare_word(root: Path) -> None:
    text = (root / "README.md").read_text()
    assert not stray_lines(text)
    assert stray_lines(text.replace("\n## ", "\nPOOR\n\n## ", 1)) == ["POOR"]
