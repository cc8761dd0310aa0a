"""README.md and the READMEs of the folders are true: their commands, their Python, their links and their numbers."""

import ast
import itertools
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tuned import TUNABLE
from tfgradgen.cli.arguments import evaluated, normalized
from tfgradgen.cli.command_flags import COMMANDS
from tfgradgen.cli.compare_options import parse_compare
from tfgradgen.cli.export_options import parse_export
from tfgradgen.cli.groups import MAX_CHAINS
from tfgradgen.cli.options import parse_sample
from tfgradgen.cli.tune_options import parse_tune
from tfgradgen.core.checks import UserError
from tfgradgen.diagnostics.issues import MAX_ENERGY_ERROR
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.models.shipped import SHIPPED_MODELS
from tfgradgen.serving.deployment_files import Settings, render_templates

ROOT = Path(__file__).resolve().parents[1]
READMES = [
    ROOT / "README.md",
    *(path for room in ("saved_models", "tfgradgen", "tools") for path in (ROOT / room).rglob("README.md")),
]
NAMES = [path.relative_to(ROOT).as_posix() for path in READMES]
ROOMS = {
    f"tfgradgen/{room}"
    for room in (
        "demo",
        "diagnostics",
        "engine",
        "evaluation",
        "mcmc",
        "media",
        "models",
        "play",
        "serving",
        "tuning",
        "viewing",
    )
} | {
    "saved_models",
    "tools",
}
SECTIONS = [
    "Install and draw",
    "Three recipes",
    "Sounds, clips and texts",
    "Which kernel?",
    "Commands",
    "Results",
    "Limits",
    "Citation and licence",
]
PARSERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "sample": parse_sample,
    "check": parse_sample,
    "compare": parse_compare,
    "tune": parse_tune,
    "export": parse_export,
}
of_each = pytest.mark.parametrize("path", READMES, ids=NAMES)


def code_of(text: str) -> list[str]:
    """Return the lines of code, and the text between backticks in a line."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return re.findall(r"^    (\S.*)$", outside, re.M) + re.findall(r"`([^`\n]+)`", outside)


def commands_of(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield commands of tfgradgen, or modules or scripts of tools, and the words after them; placeholders are left out."""
    for line in code_of(text):
        for part in re.split(r"&& | ?; ", line):
            for name, words in re.findall(r"python (?:-m )?(tfgradgen [a-z]+|tools[\w./]*)(.*)", part.replace("$k", "mala")):
                if name == name.lower():
                    yield name.removeprefix("tfgradgen "), shlex.split(words)


def script_of(tool: str) -> Path:
    """Return the file of a tool, which is named as a file or as a module."""
    return ROOT / (tool if tool.endswith(".py") else tool.replace(".", "/") + ".py")


def flags_of(script: Path) -> set[str]:
    """Return the flags that Fire makes of a tool's `main`, or of its commands."""
    functions = [node for node in ast.parse(script.read_text()).body if isinstance(node, ast.FunctionDef)]
    entries = [node for node in functions if node.name == "main"] or functions
    return {argument.arg for entry in entries for argument in (*entry.args.args, *entry.args.kwonlyargs)}


def slug_of(title: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def headings_of(text: str) -> list[tuple[int, str]]:
    """Return the level and title of each heading."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return [(len(level), title) for level, title in re.findall(r"^(#+) (.+)$", outside, re.M)]


def table_of(text: str, head: str) -> dict[str, list[str]]:
    """Return the rows of the table whose first line begins with `head`: the first cell, without marks -> the other cells."""
    _, _, rest = text.partition(f"\n{head}")
    rows = [line.strip("| ").split(" | ") for line in rest.partition("\n\n")[0].splitlines()[2:]]
    return {re.sub(r"^\[(.+)\]\(.*\)$", r"\1", cells[0]).strip("`"): cells[1:] for cells in rows}


def test_every_room_has_a_readme_that_the_front_page_links_to() -> None:
    text = (ROOT / "README.md").read_text()
    assert set(NAMES) == {"README.md"} | {f"{room}/README.md" for room in ROOMS}
    assert {name for name in NAMES if f"]({name})" in text} == set(NAMES) - {"README.md"}


def test_the_front_page_is_short_and_has_its_parts() -> None:
    text = (ROOT / "README.md").read_text()
    lines = text.splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 130
    assert [title for level, title in headings_of(text) if level == 2] == SECTIONS
    before, _, recipes = text.partition("## Three recipes")
    assert re.findall(r"^!\[", before, re.M) == ["!["], "one image, before anything else"
    assert before.index("![") < before.index("\n## ")
    assert re.findall(r"^\*\*(.+?)\.\*\*", recipes, re.M) == ["Clearer images", "My own models", "From Python"]
    assert "--temperature=0.5" in recipes.partition("**My own models")[0]
    listed = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.+?) \|", text.partition("## Commands")[2], re.M)))
    assert set(COMMANDS) <= set(listed)


def test_the_poster_is_named_in_full_once() -> None:
    names = [
        path
        for path in READMES
        for _ in re.findall("Generating Class-conditional Images with Gradient-based", path.read_text())
    ]
    assert names == [ROOT / "README.md"]


def test_the_first_commands_are_those_of_the_gate_and_of_the_shipped_tests() -> None:
    first, second = [line for line in code_of((ROOT / "README.md").read_text()) if line.startswith("python3 ")]
    assert first.endswith("-m tfgradgen sample --label=goldfish --kernel=mala")
    ci = (ROOT / ".ci" / "run").read_text()
    for part in second.split(" && "):
        assert part in ci


def check_command(name: str, words: list[str]) -> None:
    """Check that the command exists, takes these flags and allows these values."""
    given = normalized([word for word in words if word.startswith("--")])
    flags = {flag.removeprefix("--"): evaluated(value) for flag, _, value in (word.partition("=") for word in given)}
    if name.startswith("tools"):
        assert script_of(name).is_file(), name
        assert not flags or set(flags) <= flags_of(script_of(name)), name
        return
    assert name in COMMANDS
    is_help = flags.pop("help", False)
    assert set(flags) <= set(COMMANDS[name].known()), name
    if name in PARSERS and flags and not is_help:
        needed = {"tune": {"kernel": None}, "export": {"labels": "all", "kernel": None}}.get(name, {})
        PARSERS[name](needed | flags)


@of_each
def test_commands_are_ones_that_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = tmp_path / "out" / "tune" / "best.yaml"  # of the previous command
    found.parent.mkdir(parents=True)
    found.write_text((ROOT / "tools" / "tuning" / "hmc" / "best.yaml").read_text())
    for name, words in commands_of(path.read_text()):
        check_command(name, words)


@pytest.mark.parametrize(
    "wrong",
    [
        "python -m tfgradgen sampel --label=goldfish",
        "python -m tfgradgen sample --lable=goldfish",
        "python -m tfgradgen sample --label=goldfish --temperature=-1",
        "python -m tools.bench.bensh",
        "python -m tools.bench.bench --clocks=cpu",
    ],
)
def test_a_command_that_does_not_run_is_seen(wrong: str) -> None:
    for text in (f"So:\n\n    {wrong}\n", f"See `{wrong}`.", f"\n    python3 -m venv .venv && .venv/bin/{wrong}\n"):
        ((name, words),) = commands_of(text)
        with pytest.raises((AssertionError, UserError)):
            check_command(name, words)


@of_each
def test_flags_exist(path: Path) -> None:
    """Every flag in a text exists in some command."""
    tools = {
        flag
        for script in (ROOT / "tools").rglob("*.py")
        if re.search(r"fire\.Fire\(|^from tools\.command", script.read_text(), re.MULTILINE)
        for flag in flags_of(script)
    }
    client = render_templates("served", Settings((1,), batched=2))["rest_client.py"]
    parsed = {flag for path in (ROOT / "tools").rglob("*.py") for flag in re.findall(r'argument\("--(\w+)"', path.read_text())}
    known = (
        tools
        | parsed
        | {"help", "version"}
        | {*re.findall(r'"--(\w+)": ', client)}
        | {flag for command in COMMANDS.values() for flag in command.known()}
    )
    outside = re.sub(r"pip (install|download).*", "", path.read_text())
    assert set(re.findall(r"--([a-z]\w*)", outside)) <= known


@of_each
def test_links_and_images_exist(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        assert not anchor or anchor in {slug_of(title) for _, title in headings_of(file.read_text())}, target


@of_each
def test_headings_are_in_order(path: Path) -> None:
    """There is one title, then levels without a gap; anchors are unique."""
    headings = headings_of(path.read_text())
    levels = [level for level, _ in headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))
    assert len({slug_of(title) for _, title in headings}) == len(headings)


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs as printed, but with two chains of a few steps; it is printed once."""
    (code,) = [code for path in READMES for code in re.findall(r"```python\n(.*?)```", path.read_text(), re.S)]
    assert code in (ROOT / "README.md").read_text()
    assert "num_chains=16" in code
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code.replace("num_chains=16", "num_chains=2, num_results=2, num_burnin_steps=2"), names)
    result, read = names["result"], names["tg"].load_run("out/x")
    assert result.record["label"]["name"] == "goldfish"
    assert (result.images.shape, result.z.shape) == ((2, 64, 64, 3), (2, 2, 84))
    assert (read.z.tolist(), read.summary()) == (result.z.tolist(), result.summary())


def stray_lines(text: str) -> list[str]:
    """Return the lines outside code that are a single bare word, which an editor or a script left behind."""
    outside = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.M | re.S)
    return [line for line in outside.splitlines() if re.fullmatch(r"\w+", line.strip()) and not line.startswith("    ")]


@of_each
def test_no_line_is_a_bare_word(path: Path) -> None:
    text = path.read_text()
    assert not stray_lines(text)
    assert stray_lines(text.replace("\n## ", "\nPOOR\n\n## ", 1)) == ["POOR"]


def test_results_of_the_front_page_are_those_of_the_cards_and_of_the_sheet() -> None:
    text = (ROOT / "tfgradgen" / "evaluation" / "README.md").read_text()
    quality, variety = table_of(text, "| method | the poster's"), table_of(text, "| method | Vendi")
    assert quality.keys() == variety.keys() > {"mala", "rejection", "photographs"}
    shown = table_of((ROOT / "README.md").read_text(), "| images | share whose class")
    classifier, judge = ((ROOT / "saved_models" / name / "MODEL.md").read_text() for name in ("classifier", "judge"))
    (exact,) = re.findall(r"agreement with exact posterior draws, mean over classes \| (\d\.\d+) \|", classifier)
    (at_half,) = re.findall(r"mean over classes, at temperature 0\.5 \| (\d\.\d+) \|", classifier)
    (photographs,) = re.findall(r"top-1 accuracy on 500 held-out photographs \| (\d\.\d+) \|", judge)
    (of_each,) = re.findall(r"^goldfish \d\.\d\d, .*?\.$", text, re.M | re.S)
    shares = [float(word) for word in re.findall(r"\d\.\d\d", of_each)]
    assert len(shares) == 20
    (sheet,) = shown["the `mala` chains of the sheet"]
    assert abs(float(sheet) - np.mean(shares)) < 0.005
    assert shown == {
        "exact draws": [exact],
        "exact draws at a `--temperature` of 0.5": [at_half],
        "the `mala` chains of the sheet": [sheet],
        "held-out photographs": [photographs],
    }


def test_the_table_of_kernels_is_complete() -> None:
    table = table_of((ROOT / "tfgradgen" / "mcmc" / "README.md").read_text(), "| `--kernel` |")
    assert set(SAMPLERS) <= set(table)
    assert {len(cells) for cells in table.values()} == {5}


def test_gains_of_tuning_are_those_of_the_reports() -> None:
    text = (ROOT / "tfgradgen" / "tuning" / "README.md").read_text()
    assert set(re.findall(r"tools/tuning/(\w+)/report\.md", text)) == set(TUNABLE)
    table = table_of(text, "| kernel | gradients of a run |")
    reports = {kernel: (ROOT / "tools" / "tuning" / kernel / "report.md").read_text() for kernel in TUNABLE}
    assert set(table) == {kernel for kernel, report in reports.items() if "made with older code" not in report}
    for kernel, (gradients, gain, _) in table.items():
        report = reports[kernel]
        assert re.search(f"Each run (is|has) {gradients} gradients", report)
        if gain == "none":
            assert re.search("no schedule without problems was better|all schedules .* had problems", report)
        else:
            value, low, high = re.findall(r"\d\.\d\d", gain)
            assert re.search(rf"gives {value} times .*95 % interval {low} to {high}\D", report)
            is_shown = re.search(r"\*\*No (significant )?improvement", report) is None
            assert is_shown != gain.startswith("none shown")


def test_numbers_that_the_code_or_a_card_knows() -> None:
    text = (ROOT / "tfgradgen" / "mcmc" / "README.md").read_text()
    card = (ROOT / "saved_models" / "generator" / "MODEL.md").read_text()
    (row,) = re.findall(r"^\| mean p\(class\) over the prior draws \| (.+) \|$", card, re.M)
    shares = [float(word) for word in re.findall(r"\d\.\d+", row)]
    assert f"A shipped class has {100 * min(shares):.1f} to {100 * max(shares):.1f} % of the prior" in text
    assert f"at most {MAX_CHAINS} chains" in text
    assert f"energy error above {MAX_ENERGY_ERROR:.0f} nats" in text
    shown = table_of((ROOT / "saved_models" / "README.md").read_text(), "| folder | what it is |")
    assert set(shown) == {*SHIPPED_MODELS, "photographs"}
