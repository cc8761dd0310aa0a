"""Names from outside reach no terminal, report or shell unescaped."""

import io
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import refused
from tests.support.records import a_record, npz, some_draws
from tfgradgen.cli.commands import main
from tfgradgen.cli.compare import command_line as compare_line
from tfgradgen.cli.compare_options import parse_compare
from tfgradgen.cli.progress import progress_bar
from tfgradgen.cli.terminal import MAX_LINE, note, say, shown
from tfgradgen.cli.tune import command_line as tune_line
from tfgradgen.cli.tune_options import parse_tune
from tfgradgen.core.contracts import Progress
from tfgradgen.core.text import command_text, csv_text, markdown_text
from tfgradgen.evaluation.report.tables import to_csv as compared_csv
from tfgradgen.evaluation.report.tables import to_markdown as compared_markdown

HOSTILE = (
    "a\x1b[2J\x1b]0;owned\x07b\r\nfake line\u202e\u2028",
    "$(touch owned) `touch owned` '; touch owned; '\" | <script>alert(1)</script> [x](http://evil) |",
    "=cmd|' /C calc'!A0" + "\u0301" * 40 + "x" * 400,
)
PAIR = ["--num_chains=2", "--num_results=2"]


def is_clean(text: str) -> bool:
    """Return whether the text has only letters, punctuation and line breaks of tfgradgen's own."""
    return all(c.isprintable() or c == "\n" for c in text) and "\u0301" * 5 not in text


@pytest.fixture
def flags(toy_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return flags for the toy pair with hostile labels and a hostile signature."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "classifier"
    shutil.copytree(toy_pair[1], folder)
    card = json.loads((folder / "model.json").read_text()) | {"labels": list(HOSTILE)}
    (folder / "model.json").write_text(json.dumps(card))
    return [f"--generator={toy_pair[0]}", f"--classifier={folder}"]


@pytest.mark.usefixtures("sketched_plots")
def test_every_command_shows_hostile_labels_escaped(
    flags: list[str],
    untuned: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["labels", flags[1]])
    main(["sample", "--label=all", "--kernel=rejection", "--out=runs", *PAIR, *flags])
    runs = sorted(path for path in Path("runs").iterdir() if path.is_dir())
    assert len(runs) == 3
    main(["diagnose", str(runs[0])])
    main(["check", "--label=1", *flags])
    main(["export", "--kernel=hmc", "--labels=1", "--out=x $(touch owned)", "--num_steps=2", "--batch_sizes=1", *flags])
    captured = capsys.readouterr()
    assert is_clean(captured.out)
    assert is_clean(captured.err)
    assert "fake line" in captured.out
    assert not any(line.startswith("fake line") for line in captured.out.splitlines())
    (asked,) = [line.removeprefix("ask      ") for line in captured.out.splitlines() if line.startswith("ask ")]
    assert shlex.split(asked)[2:] == [HOSTILE[1]], "one word to the shell"
    assert not Path("owned").exists()
    for run in runs:
        json.loads((run / "run.json").read_text())


@pytest.mark.parametrize("length", [1001, 10**6])
def test_a_name_without_end_is_refused(length: int, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(flags[1].partition("=")[2])
    card = json.loads((folder / "model.json").read_text()) | {"labels": ["a", "b", "\x1b" * length]}
    (folder / "model.json").write_text(json.dumps(card))
    for argv in (["labels", flags[1]], ["sample", "--label=a", *flags], ["check", *flags]):
        said = refused(argv, capsys)
        assert "names of at most 1000 characters" in said
        assert said.isprintable()
        assert len(said) < 450


@pytest.mark.parametrize(
    "argv",
    [
        ["sample", "--label=\x1b[2Jx\n"],
        ["sample", "--label=" + "x" * 10**5],
        ["sample", "--label=alp", "--out=\x1b[2J/" + "y" * 300],
        ["sample", "--label=alp", "--schedule=no\x1bsuch\nfile"],
        ["sample", "--label=alp", "--\x1b[31m"],
        ["sample", "--label=alp", "--ker\u202enel=x"],
        ["\x1b[2J"],
        ["sample", "--label=alp", "--kernel=\u202e"],
        ["diagnose", "no\x1bwhere"],
        ["export", "--out=x", "--labels=\x9b2J"],
    ],
)
def test_what_a_user_pastes_comes_back_escaped(
    argv: list[str], toy_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    more = toy_flags if argv[0] in ("sample", "export") else []
    said = refused([*argv, *more], capsys)
    assert said.isprintable()
    assert len(said) < 450


def test_a_strangers_run_is_diagnosed_without_its_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = a_record() | {"label": {"name": HOSTILE[0]}, "doubts": [HOSTILE[0], "\x1b" * 10**5]}
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "samples.npz").write_bytes(npz(**some_draws()._asdict(), image=_image()))
    main(["diagnose", str(tmp_path)])
    out = capsys.readouterr().out
    assert is_clean(out)
    assert max(map(len, out.splitlines())) <= MAX_LINE
    assert not any(line.startswith("fake line") for line in out.splitlines())


def _image() -> Any:
    import numpy as np

    return np.zeros((3, 8, 8, 3), np.uint8)


@pytest.mark.parametrize("value", [None, "0", "1"])
def test_a_traceback_with_its_causes_is_there_for_who_asks(
    value: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TFGRADGEN_DEBUG", raising=False)
    if value is not None:
        monkeypatch.setenv("TFGRADGEN_DEBUG", value)
    (tmp_path / "run.json").write_text("{\x1b")
    with pytest.raises(SystemExit) as end:
        main(["diagnose", str(tmp_path)])
    assert end.value.code == 2
    said = capsys.readouterr().err
    line = next(line for line in said.splitlines() if line.startswith("tfgradgen: "))
    assert said.endswith(line + "\n")
    assert "\x1b" not in said
    cause = [line.split(":")[0] for line in said.splitlines() if line.startswith("json.decoder.JSONDecodeError: ")]
    assert len(cause) == said.count("direct cause of the following") == said.count("in read_json") == (value == "1")


def test_the_last_defence_escapes_whatever_was_missed(capsys: pytest.CaptureFixture[str]) -> None:
    say("one\ntwo \x1b[2J" + "x" * 10**5)
    note("three \u202e\ud800")
    captured = capsys.readouterr()
    assert captured.out.startswith("one\ntwo \\x1b[2Jx")
    assert len(captured.out) < MAX_LINE + 10
    assert captured.err == "three \\u202e\\ud800\n"
    assert shown("a\tb\rc") == "a\\tb\\rc"


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_shows_titles_escaped(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", stream)
    with progress_bar("mala \x1b[2J\n\u202e") as progress_fn:
        progress_fn(Progress(1, 2, 0.5, 0.1, 0.5))
    shown_text = stream.getvalue()
    assert "\x1b[2J" not in shown_text
    assert "\u202e" not in shown_text
    assert "mala \\x1b[2J\\n\\u202e" in shown_text


def test_command_lines_are_words_of_a_shell() -> None:
    label = f"{HOSTILE[1]},b"
    for line, flag in (
        (compare_line(parse_compare({"labels": label, "out": "$(x)"})), "--labels="),
        (tune_line(parse_tune({"label": label, "out": "a b;c"})), "--label="),
        (command_text("sample", {"label": label, "kernels": ("a", "b")}), "--label="),
    ):
        assert f"{flag}{label}" in shlex.split(line)
        assert line.isprintable()


def test_reports_hold_no_html_no_cells_and_no_formulas() -> None:
    row = {
        "kind": "chain",
        "about": "no settings",
        "labels": list(HOSTILE[:1]),
        "values": {},
        "failed": {HOSTILE[1]: HOSTILE[0]},
    }
    report = {
        **{"command": "x", "labels": list(HOSTILE), "num_chains": 2, "num_gradients": 10, "checkpoints": [10]},
        "rows": {"mala": row},
    }
    text = compared_markdown(report)
    assert is_clean(text)
    assert "<script>" not in text
    assert "](http" not in text.replace("\\](http", "")
    assert "`touch" not in text.replace("\\`touch", "")
    assert is_clean(compared_csv(report))
    for bad in HOSTILE[2], "+1+1", "-x", "@SUM(A1)", "  =1":
        assert str(csv_text(bad)).startswith("'")
    for good in "-6.00", "1e-3", "+0.5", "trial", "a=b", -3.0, None:
        assert csv_text(good) == good


@pytest.mark.parametrize(
    "name", ["king_penguin", "Zürich (CH)", "a-b", "great white shark, Carcharodon", "3.5", "金魚", "x=1 + 2"]
)
def test_plain_names_stay_plain_in_markdown(name: str) -> None:
    assert markdown_text(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "__init__",
        "*a*",
        "# head",
        "- item",
        "+ item",
        "1. item",
        "a|b",
        "`x`",
        "~~a~~",
        "[a](b)",
        "![a](b)",
        "www.a.b",
        "http://a",
        "a@b.c",
        "a\\",
        "<b>",
        "&lt;",
        "_a_ b",
    ],
)
def test_markup_is_escaped_in_markdown(name: str) -> None:
    assert markdown_text(name) != name
