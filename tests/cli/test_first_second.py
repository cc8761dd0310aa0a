"""Commands that answer at once: help, the version, invalid words, finished runs.

None imports TensorFlow, and only `diagnose`, which reads draws, imports ArviZ.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.command import FAST, FAST_MALA, refused
from tfgradgen import __version__
from tfgradgen.cli.command_flags import COMMANDS
from tfgradgen.cli.commands import main

HELP = "python -m tfgradgen"
GOLDFISH = ["sample", "--label=goldfish"]

# Commands and what they answer: on stdout with code 0, or in one line on stderr with code 2.
ANSWERS: list[tuple[list[str], int, str]] = [
    (["--version"], 0, f"tfgradgen {__version__}\n"),
    (["--version=1"], 0, f"tfgradgen {__version__}\n"),
    (["sample", "--help=1"], 0, "Example"),
    (["--help=1"], 0, "Usage: python -m tfgradgen COMMAND"),
    (["version"], 0, f"tfgradgen {__version__}\n"),
    ([], 0, "Usage: python -m tfgradgen COMMAND"),
    (["help"], 0, "Usage: python -m tfgradgen COMMAND"),
    (["--help"], 0, "Usage: python -m tfgradgen COMMAND"),
    (["-h"], 0, "Usage: python -m tfgradgen COMMAND"),
    (["help", "tune"], 0, "--budget"),
    *(([name, "--help"], 0, "Example" if name not in ("labels", "models") else "") for name in COMMANDS),
    (["sample", "--models=speech", "--text=a dog"], 2, "--text: expected a generator of images, got one of the kind sound: "),
    (["sample", "--models=actions", "--text=a dog"], 2, "--text: expected a generator of images, got one of the kind video: "),
    (["compare", "--help"], 0, "(5..4096)"),
    (["tune", "--help"], 0, "(4..4096)"),
    (["smaple"], 2, f"unknown command smaple; did you mean sample? all commands: {HELP} --help"),
    (["--seed=1", "sample"], 2, f"unknown command --seed=1; all commands: {HELP} --help"),
    (["help", "smaple"], 2, "unknown command smaple"),
    ([*GOLDFISH, "--lable=x"], 2, f"unknown flag --lable; did you mean --label? all flags: {HELP} sample --help"),
    (
        ["compare", "--labels=all", "--kernel=mala"],
        2,
        f"unknown flag --kernel; did you mean --kernels? all flags: {HELP} compare",
    ),
    (["compare", "--label=goldfish"], 2, "unknown flag --label; did you mean --labels? all flags:"),
    (["tune", "goldfish", "--budged=3"], 2, "unknown flag --budged; did you mean --budget?"),
    (["export", "--out=x", "--xyzzy=3"], 2, f"unknown flag --xyzzy; all flags: {HELP} export --help"),
    (["models", "--label=3"], 2, f"unknown flag --label; all flags: {HELP} models --help"),
    (["labels"], 0, "goldfish"),
    (["models"], 0, "sha256"),
    (["labels", "--classifier=nowhere"], 2, "model nowhere: expected a SavedModel folder"),
    ([*GOLDFISH, "--num_results=abc"], 2, "num_results: expected an integer in 1..1000000000, got 'abc'"),
    ([*GOLDFISH, "--kernel=hcm"], 2, "did you mean hmc"),
    ([*GOLDFISH, "--out=taken"], 2, "taken, which exists; choose another --out or add --overwrite"),
    ([*GOLDFISH, "--schedule=nowhere.yaml"], 2, "nowhere.yaml"),
    ([*GOLDFISH, "--generator=nowhere"], 2, "model nowhere: expected a SavedModel folder"),
    ([*GOLDFISH, "--classifier=nowhere"], 2, "model nowhere: expected a SavedModel folder"),
    ([*GOLDFISH, "--generator_prior=odd"], 2, "prior: expected one of"),
    (["sample", "--label=goldfsh"], 2, "did you mean goldfish"),
    (["sample", "--label=goldfish,monarch", "--out=taken"], 2, "taken/monarch, which exists"),
    (["check", "--label=goldfsh"], 2, "did you mean goldfish"),
    (["compare", "--labels=goldfsh"], 2, "did you mean goldfish"),
    (["compare", "--labels=goldfish", "--kernels=hcm"], 2, "did you mean hmc"),
    (["compare", "--labels=goldfish", "--out=taken"], 2, "taken, which exists"),
    (["compare", "--labels=goldfish", "--judge=nowhere"], 2, "model nowhere"),
    (["compare", "--labels=goldfish", "--photographs=nowhere"], 2, "photographs: expected a folder"),
    (["tune", "--label=goldfsh"], 2, "did you mean goldfish"),
    (["tune", "--label=goldfish", "--out=taken"], 2, "taken, which exists"),
    (["tune", "--label=goldfish", "--control=nowhere.yaml"], 2, "nowhere.yaml"),
    (["tune", "--label=goldfish", "--num_gradients=61"], 2, "num_gradients"),
    (["export", "--out=x", "--labels=goldfsh"], 2, "did you mean goldfish"),
    (["export", "--out=served", "--version=1"], 2, "--version=2 is free"),
    (["diagnose", "taken/monarch"], 0, "ok       checked: models, stored images"),
    (["diagnose", "taken"], 0, "in all   1 run, 0 with problems"),
    (["diagnose", "half"], 0, "left out 2 unfinished runs: alp, espresso; finish with sample --resume"),
    (["diagnose", "half", "--json"], 0, '"unfinished": ["alp", "espresso"]'),
    (["diagnose", "none"], 2, "unfinished ones in none: alp; finish with sample --resume"),
    (["diagnose"], 2, f"give it, for example: {HELP} diagnose out/goldfish-mala-0"),
    (["diagnose", "nowhere"], 2, "no run at nowhere (no such folder); give a folder that `sample` wrote"),
    (["diagnose", "served"], 2, "no run at served (run.json is missing); give a folder that `sample` wrote"),
    (["diagnose", "begun"], 2, "begun.partial, an unfinished one; finish it with sample --resume"),
    (["diagnose", "begun.partial"], 2, "begun.partial, an unfinished one; finish it with sample --resume"),
]


@pytest.mark.usefixtures("quick_runs")
def test_answers_come_without_tensorflow(toy_flags: list[str], tmp_path: Path) -> None:
    main(
        [
            "sample",
            "--label=goldfish",
            "--kernel=rejection",
            "--num_results=9",
            "--num_chains=2",
            *toy_flags,
            "--out=taken/monarch",
        ]
    )
    (tmp_path / "served/1").mkdir(parents=True)
    (tmp_path / "served/models.config").touch()
    (tmp_path / "begun.partial").mkdir()
    (tmp_path / "begun.partial/checkpoint.npz").write_bytes(b"")
    for begun in ("half/alp", "half/espresso", "none/alp"):
        (tmp_path / f"{begun}.partial").mkdir(parents=True)
        (tmp_path / f"{begun}.partial/checkpoint.npz").write_bytes(b"")
    shutil.copytree("taken/monarch", "half/monarch")
    before = sorted(map(str, tmp_path.rglob("*")))
    of_draws = {"arviz_stats", "scipy.stats", "matplotlib", "pandas"}  # slow to import
    program = (
        "import contextlib, io, json, sys\n"
        "from tfgradgen.cli.commands import main\n"
        f"SLOW = {of_draws | {'tensorflow'}}\n"
        "for argv in json.load(sys.stdin):\n"
        "    code, out, err = 0, io.StringIO(), io.StringIO()\n"
        "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):\n"
        "        try:\n"
        "            main(argv)\n"
        "        except SystemExit as end:\n"
        "            code = end.code\n"
        "    print(json.dumps([code, out.getvalue(), err.getvalue(), sorted(set(sys.modules) & SLOW)]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps([argv for argv, *_ in ANSWERS]), capture_output=True, text=True
    )
    assert ended.stderr == ""
    wrong = []
    for (argv, code, text), line in zip(ANSWERS, ended.stdout.splitlines(), strict=True):
        got, out, err, imported = json.loads(line)
        lines = [err[:11], err.count("\n"), out] if code else [err]
        is_right = text in (err if code else out) and lines == (["tfgradgen: ", 1, ""] if code else [""])
        is_lean = set(imported) <= (of_draws if argv[:1] == ["diagnose"] else set())
        if (got, is_lean, is_right) != (code, True, True):
            wrong.append((argv, got, imported, out, err))
    assert not wrong
    assert sorted(map(str, tmp_path.rglob("*"))) == before, "an answer leaves nothing behind"


def test_help_has_no_header_of_fire_and_no_argument_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--help"], *([name, "--help"] for name in COMMANDS)):
        main(argv)
        shown = capsys.readouterr()
        assert shown.err == ""
        assert not [word for word in ("INFO:", "SYNOPSIS", "extra:", "goes before") if word in shown.out]
        assert argv[0] != "--help" or all(f"\n  {name} " in shown.out for name in COMMANDS)


@pytest.mark.usefixtures("quick_runs")
def test_every_run_of_several_labels_is_diagnosed(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", "--label=goldfish,alp", "--out=runs", *toy_flags, *FAST_MALA])
    with np.load("runs/alp/samples.npz") as file:
        arrays = dict(file)
    capsys.readouterr()
    main(["diagnose", "runs"])
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("run ")] == ["run      runs/alp", "run      runs/goldfish"]
    assert out.splitlines()[-1] == "in all   2 runs, 2 with problems: alp, goldfish"
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", "runs", "--strict"])
    assert ended.value.code == 1
    capsys.readouterr()
    np.savez("runs/alp/samples.npz", **{name: array for name, array in arrays.items() if name != "z"})
    with pytest.raises(SystemExit):
        main(["diagnose", "runs"])
    assert "runs/alp" in capsys.readouterr().err


@pytest.mark.usefixtures("sketched_plots")
def test_what_a_run_does_is_said_before_it_does_it(
    toy_flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TFGRADGEN_CACHE_DIR", str(tmp_path / "cache"))
    draws = ["prior draws: 512 are evaluated", "compiling the models", "prior draws: 256 of 512", "prior draws: 512 of 512"]
    for kernel, stages in (
        ("rejection", ["TensorFlow", "models", "compiling the models"]),  # one chunk, which the starts use again
        ("mala", ["TensorFlow", "models", "starts", *draws, "compiling mala"]),
        ("mala", ["TensorFlow", "models", "starts", "compiling mala"]),
    ):
        few = FAST if kernel == "mala" else FAST[::2]
        main(["sample", "--label=goldfish", f"--kernel={kernel}", "--overwrite", *toy_flags, *few])
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("doing    ")]
        assert len(lines) == len(stages)
        assert all(word in line for word, line in zip(stages, lines, strict=True))


def test_a_wrong_value_is_refused_before_the_models_are_loaded(
    toy_flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfgradgen.cli.commands.start_tensorflow", lambda: pytest.fail("TensorFlow was started"))
    assert "did you mean goldfish" in refused(["sample", "--label=goldfsh", *toy_flags], capsys)
