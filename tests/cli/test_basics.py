"""General features of the command line: -q, -v, completion, a time budget, --like, JSON, a table of several labels."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.command import FAST_MALA, SMALL, refused
from tests.support.fuzzing import VALUES, changed, damaged
from tests.support.records import a_record, record_of
from tfgradgen.cli.command_flags import COMMANDS
from tfgradgen.cli.commands import command_again, main
from tfgradgen.cli.completion import bash_script, words_of
from tfgradgen.cli.like import with_like
from tfgradgen.cli.options import parse_duration, parse_sample
from tfgradgen.core.checks import UserError
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.models.loading.metadata import fingerprint
from tfgradgen.models.shipped import default_model
from tfgradgen.results.record import VARIED

pytestmark = pytest.mark.usefixtures("quick_runs")

LONG = ["--kernel=mala", "--num_results=50", "--num_burnin_steps=4", "--num_adaptation_steps=4"]


def bytes_of(folder: str) -> bytes:
    return Path(folder, "samples.npz").read_bytes()


def test_quiet_prints_the_last_line_and_what_is_wrong(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*SMALL, *FAST_MALA[:1], *FAST_MALA[1:3], *toy_flags, "--out=a", "-q"])
    quiet = capsys.readouterr()
    main(["-v", *SMALL, *FAST_MALA[:1], *FAST_MALA[1:3], *toy_flags, "--out=b"])
    verbose = capsys.readouterr()
    every = verbose.out.replace("wrote    b:", "wrote    a:").splitlines()
    *warnings, last = quiet.out.splitlines()
    assert last.startswith("wrote    a: report.html")
    start = len("warning  means: small")  # the end of the line contains seconds
    assert [line[:start] for line in warnings] == [line[:start] for line in every if line.startswith("warning")] != []
    assert last == every[-1]
    assert all(line.startswith("warning") for line in quiet.err.splitlines())
    notes = verbose.err.splitlines()
    assert re.match(r"versions tfgradgen \d.*, Python 3\..*, TensorFlow 2\..*, NumPy \d.*; .* cores$", notes[0])
    assert [line for line in notes if line.startswith("device   CPU:0")]
    assert re.fullmatch(r"took     \d+\.\d s, \d+\.\d s of CPU time, at most [\d,]+ MiB of memory", notes[-1])
    stages = [line for line in notes if line.startswith("doing ")]
    assert all(re.search(r" \(after \d+\.\d s\)$", line) for line in stages)
    assert bytes_of("a") == bytes_of("b")


def test_quiet_keeps_lists_errors_and_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["kernels"], ["labels"], ["models"], ["--version"], ["sample", "--help"], ["completion", "fish"]):
        main(command)
        usual = capsys.readouterr()
        main(["-q", *command])
        assert capsys.readouterr() == usual
    assert "did you mean sample?" in refused(["sampel", "-q"], capsys)
    assert "arguments: expected -q or -v once, got -q and --verbose" in refused(["kernels", "-q", "--verbose"], capsys)
    for word in ("-q=1", "-vv", "--quiet=false"):
        refused(["kernels", word], capsys)


def test_quiet_names_the_label_of_a_warning(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", "--label=goldfish,alp", "--out=runs", *toy_flags, *FAST_MALA, "-q"])
    *warnings, last = capsys.readouterr().out.splitlines()
    assert last.startswith("sheet    ")
    named = {name: [line for line in warnings if line.startswith(f"warning  {name}: ")] for name in ("goldfish", "alp")}
    assert {name: len(record_of(f"runs/{name}")["problems"]) for name in named} == {name: len(named[name]) for name in named}
    assert len(warnings) == sum(map(len, named.values())) > 0


def test_the_command_that_goes_on_is_as_quiet() -> None:
    assert command_again(["-q", "sample", "--label", "alp", "--strict"]) == (
        "python -m tfgradgen sample --label=alp --strict=True --resume -q"
    )
    assert command_again(["sample", "--strict", "--verbose", "--resume"]).endswith(" sample --strict=True --resume --verbose")


def test_durations() -> None:
    found = {"60": 60, "60s": 60, "5m": 300, "1.5h": 5400, "1h30m": 5400, "1h1m1.5s": 3661.5, "0.5": 0.5}
    for text, seconds in found.items():
        assert parse_duration("time_budget", text) == seconds
    assert parse_duration("time_budget", 2.5) == 2.5
    for wrong in (
        "",
        "0",
        "0s",
        "-1",
        "1x",
        "s",
        "1s1m",
        "1e3",
        "nan",
        "inf",
        "9" * 400,
        True,
        None,
        (1, 2),
        float("nan"),
        1e300,
    ):
        with pytest.raises(UserError, match="time_budget: expected a time above 0, such as 90s, 5m or 1h30m, got"):
            parse_duration("time_budget", wrong)


def test_a_run_that_time_cut_is_the_run_of_so_many_draws(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The first chunk is the burn-in, the second has twenty draws. The time is over after either of them."""
    command = [*SMALL, *LONG, *toy_flags, "--out=cut"]
    said = refused([*command, "-q", "--time_budget=0.001s"], capsys)
    assert "time_budget: expected time for a draw of each chain, got 0.001 s, which ended before it; give more time" in said
    assert said.endswith("--out=cut --time_budget=0.001s --resume -q")
    assert not Path("cut").exists()
    main([*command, "--time_budget=0.001s", "--resume"])
    out = capsys.readouterr().out
    assert "cut      at 20 of 50 draws by --time_budget=0.001s; --resume continues the run\n" in out
    record = record_of("cut")
    assert record["time_budget"] == {"seconds": 0.001, "num_results": 50}
    assert record["arguments"]["schedule"]["num_results"] == 20
    main([*SMALL, *LONG[:1], "--num_results=20", *LONG[2:], *toy_flags, "--out=twenty"])
    assert bytes_of("cut") == bytes_of("twenty")
    assert "time_budget" not in record_of("twenty")
    assert not list(Path().glob("*.partial"))

    between = [word.replace("=50", "=30") for word in command]
    main([*between, "--resume"])
    main([*SMALL, *LONG[:1], "--num_results=30", *LONG[2:], *toy_flags, "--out=thirty"])
    assert bytes_of("cut") == bytes_of("thirty")
    assert "time_budget" not in record_of("cut")
    main([*command, "--resume", "--time_budget=1h"])
    main([*SMALL, *LONG, *toy_flags, "--out=whole"])
    assert bytes_of("cut") == bytes_of("whole")
    assert "time_budget" not in record_of("cut")


def test_labels_share_the_time(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Labels of one batch are cut together; each of several labels that run in turn gets at least one chunk."""
    several = ["sample", "--label=goldfish,alp", "--num_chains=3", *toy_flags, "--time_budget=0.001s"]
    main([*several, "--kernel=mala", "--num_results=50", "--num_burnin_steps=0", "--out=batch"])
    counts = {name: record_of(f"batch/{name}")["arguments"]["schedule"]["num_results"] for name in ("goldfish", "alp")}
    assert len({*counts.values()}) == 1
    assert 1 <= counts["alp"] < 50
    capsys.readouterr()
    main([*several, "--kernel=rejection", "--num_results=3000", "--out=turns"])
    captured = capsys.readouterr()
    assert captured.out.count("cut      at ") == 2
    assert "rejection goldfish (1 of 2): " in captured.err
    assert "rejection alp (2 of 2): " in captured.err


def test_particles_are_not_cut(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    said = refused([*SMALL, "--kernel=smc", *toy_flags, "--time_budget=1s"], capsys)
    assert "time_budget: expected a kernel that draws one after another, got smc" in said


def test_several_labels_are_numbered_and_end_in_one_table(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sample", "--label=goldfish,alp", "--out=runs", *toy_flags, *FAST_MALA]
    main(command)
    out = capsys.readouterr().out.splitlines()
    assert [line for line in out if line.startswith("label  ")] == ["label    1 of 2: goldfish", "label    2 of 2: alp"]
    head, *rows, sheet = out[-4:]
    assert head.split() == [
        "label",
        "images",
        "means",
        "p(class)",
        "acceptance",
        "ESS",
        "worst",
        "R-hat",
        "draws",
        "seconds",
        "warnings",
    ]
    assert [row.split()[0] for row in rows] == ["goldfish", "alp"]
    assert sheet.startswith("sheet ")
    for name, row in zip(("goldfish", "alp"), rows, strict=True):
        record, cells = record_of(f"runs/{name}"), row.split()
        assert cells[1:3] == [record["grades"]["images"], record["grades"]["means"]]
        assert float(cells[3]) == pytest.approx(record["mean_class_prob"], rel=1e-3)
        assert (cells[-3], cells[-1]) == ("4", str(len(record["problems"])))
    main([*command, "--resume"])
    assert capsys.readouterr().out.splitlines()[-4:] == out[-4:], "the table of runs that were finished earlier"


def test_like_takes_all_settings_and_flags_win(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--temperature=0.5", "--seed=7", "--step_size=0.3", "--num_chains=3", "--jit=false"]
    main(["sample", "--label=king_penguin", *LONG, *own, *toy_flags, "--out=first"])
    capsys.readouterr()
    main(["sample", "--like=first/run.json", "--out=again"])
    assert bytes_of("first") == bytes_of("again")
    assert record_of("again")["arguments"] == record_of("first")["arguments"] | {"out": "again"}
    shown = capsys.readouterr().err
    assert "like     first/run.json: --label=king_penguin --kernel=mala --seed=7 " in shown
    main(["sample", "--like=first", "--label=alp", "--seed=8", "--num_results=4", "--out=other"])
    found, first = record_of("other"), record_of("first")
    assert (found["label"]["name"], found["seed"], found["arguments"]["schedule"]["num_results"]) == ("alp", 8, 4)
    assert found["arguments"]["kernel_config"] == first["arguments"]["kernel_config"]
    assert found["arguments"]["temperature"] == 0.5
    main(["sample", "--like=first", "--kernel=rejection", "--num_results=2", "--out=exact"])
    found = record_of("exact")
    assert (found["kernel"], found["seed"], found["label"]["name"]) == ("rejection", 7, "king_penguin")


def like(record: Any, tmp_path: Path, **given: Any) -> dict[str, Any]:
    (tmp_path / "run.json").write_text(json.dumps(record))
    return with_like(given, tmp_path, COMMANDS["sample"].texts())


def test_like_takes_nothing_dangerous(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = a_record()
    (tmp_path / "g").mkdir()
    record["arguments"] |= {"generator": f"{tmp_path}/g", "classifier": "/else/saved_models/classifier", "strict": True}
    record["arguments"] |= {"label": "goldfish", "classifier_labels": "imagenet"}
    record["arguments"] |= {"allow_unknown_ops": True, "out": "/etc", "overwrite": True, "resume": True, "generator_x": "y"}
    record["label"]["name"] = "\x1b[2Jgoldfish"
    found = like(record, tmp_path)
    assert not {"allow_unknown_ops", "out", "overwrite", "resume", "strict", "time_budget"} & {*found}
    assert (found["label"], found["kernel"], found["num_chains"]) == ("goldfish", "mala", 3)
    assert (found["generator"], found["classifier"]) == (f"{tmp_path}/g", str(default_model("classifier")))
    err = capsys.readouterr().err
    assert "warning  --allow_unknown_ops of that run is not taken from a file" in err
    assert "the shipped classifier takes the place of /else/saved_models/classifier" in err
    assert "warning  this classifier differs from that of the run" in err
    record["classifier"] = {**record["classifier"], "sha256": fingerprint(default_model("classifier"))}
    like(record, tmp_path)
    assert "it is another classifier" not in capsys.readouterr().err
    assert "\x1b" not in err
    assert "generator_x" not in like(record, tmp_path, generator="mine"), "a setting of another model"
    assert like(record, tmp_path, generator="mine")["generator"] == "mine"
    assert "num_adaptation_steps" not in like(record, tmp_path, num_burnin_steps=9)
    assert "step_size" not in like(record, tmp_path, kernel="hmc")


@pytest.mark.parametrize("role", ["generator", "classifier", "discriminator"])
def test_like_takes_no_model_that_is_not_on_this_machine(role: str, tmp_path: Path) -> None:
    for handle in (
        "http://10.0.0.1/m.tar.gz",
        "https://tfhub.dev/a/b/1",
        "a/b/tensorflow2/c/1",
        "https://evil.com/saved_models/x",
        "~/nowhere",
        "/dev/null",
        f"{tmp_path},a/b/tensorflow2/c/1",
    ):
        record = a_record()
        record["arguments"] |= {"generator": str(tmp_path), "classifier": str(tmp_path), role: handle}
        with pytest.raises(UserError, match=f"like: expected the {role} of that run on this machine.*; give {role}=MODEL"):
            like(record, tmp_path)
        assert like(record, tmp_path, **{role: "mine"})[role] == "mine"


def test_like_reads_no_file_of_names(tmp_path: Path) -> None:
    record = a_record()
    record["arguments"] |= {"generator": str(tmp_path), "classifier": str(tmp_path), "classifier_labels": "/etc/passwd"}
    with pytest.raises(UserError, match=r"like: expected class names that you give .*, got /etc/passwd; give labels=FILE"):
        like(record, tmp_path)
    assert like(record, tmp_path, classifier_labels="mine")["classifier_labels"] == "mine"
    assert "classifier_labels" not in like(record, tmp_path, classifier="mine")


def test_like_of_a_run_of_vary_says_so(tmp_path: Path) -> None:
    record = a_record()
    for run in ("out/x", ""):
        record[VARIED] = {"run": run, "chain": 0, "amount": 0.3, "num_steps": 5}
        with pytest.raises(UserError, match=r"expected a run of `sample`, got a run of `vary` at .*; give the run"):
            like(record, tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "like: expected a run.json at "),
        ("{", "like: expected a run.json at "),
        ("[" * 10_000, "like: expected a run.json at "),
        ("{}", "no entry"),
        (json.dumps(a_record()), "like: expected a run that a command can make again"),
    ],
)
def test_like_of_no_run_is_one_line(
    text: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("run.json").write_text(text)
    assert said in refused(["sample", "--like=."], capsys)
    assert "expected" in refused(["sample", "--like=nowhere/run.json"], capsys)
    assert os_names(tmp_path) == ([] if text is None else ["run.json"])


def os_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def parsed(data: bytes, tmp_path: Path) -> Any:
    """Return the options that a damaged run.json gives, or the error."""
    (tmp_path / "run.json").write_bytes(data)
    try:
        return parse_sample({"label": None} | with_like({}, tmp_path, COMMANDS["sample"].texts()))
    except UserError as error:
        return error


def test_no_damage_to_a_record_is_worse_than_an_error(tmp_path: Path) -> None:
    record = a_record()
    record["arguments"] |= {"generator": str(tmp_path), "classifier": str(tmp_path), "strict": False, "label": "goldfish"}
    rng = random.Random(0)
    data = [damaged(json.dumps(record).encode(), rng) for _ in range(100)]
    data += [json.dumps(changed(record, rng)).encode() for _ in range(100)]
    data += [
        json.dumps(record | {"arguments": record["arguments"] | {"seed": value}, "seed": value}).encode() for value in VALUES
    ]
    found = [parsed(each, tmp_path) for each in data]
    errors = [error for error in found if isinstance(error, UserError)]
    assert 0 < len(errors) < len(found)
    assert all(str(error).isprintable() and len(str(error)) < 800 for error in errors)


def test_diagnose_prints_json(
    toy_flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sample", "--label=goldfish,alp", "--out=runs", *toy_flags, *FAST_MALA])
    capsys.readouterr()
    monkeypatch.setattr("tfgradgen.cli.terminal.MAX_LINE", 400)  # JSON may be longer than this

    def diagnosed(*words: str) -> Any:
        main(["diagnose", *words, "--json"])
        (line,) = capsys.readouterr().out.splitlines()
        return json.loads(line, parse_constant=lambda name: pytest.fail(name))["runs"]

    (run,) = diagnosed("runs/alp")
    record = record_of("runs/alp")
    assert {
        name: run[name] for name in ("grades", "problems", "statistics", "chains", "warnings", "passed", "seed", "kernel")
    } == {name: record[name] for name in ("grades", "problems", "statistics", "chains", "warnings", "passed", "seed", "kernel")}
    assert (run["folder"], run["num_results"], run["num_chains"], run["label"]["name"]) == ("runs/alp", 4, 3, "alp")
    assert [each["folder"] for each in diagnosed("runs", "-q")] == ["runs/alp", "runs/goldfish"]
    with pytest.raises(SystemExit) as error:
        main(["diagnose", "runs", "--json", "--strict"])
    assert error.value.code == 1
    json.loads(capsys.readouterr().out)
    assert "diagnose: expected a run, got no run at nowhere" in refused(["diagnose", "nowhere", "--json"], capsys)


def completed(script: str, line: str) -> list[str]:
    """Return what bash offers for `line` with the cursor at its end. Words are split as bash splits them, also at `=`."""
    words = [word for word in re.split(r"(=)|\s+", line) if word]
    words += [""] if line.endswith((" ", "=")) else []
    call = f"COMP_LINE={line!r}; COMP_POINT={len(line)}; COMP_WORDS=({' '.join(map(repr, words))}); COMP_CWORD={len(words) - 1}"
    run = f'{script}\nCOMP_WORDBREAKS=" \t\n=:"\n{call}\n_tfgradgen\nprintf "%s\\n" "${{COMPREPLY[@]}}"'
    return subprocess.run(["bash", "-c", run], check=True, capture_output=True, text=True).stdout.split()


def test_bash_completes_commands_flags_and_values() -> None:
    script = bash_script()
    assert completed(script, "tfgradgen ") == [*COMMANDS, "help", "--version"]
    assert completed(script, "tfgradgen sam") == ["sample"]
    assert completed(script, "tfgradgen sample --num_r") == ["--num_results=", "--num_replicas="]
    assert completed(script, "tfgradgen sample --stric") == ["--strict"]
    assert completed(script, "tfgradgen sample --kernel=") == ["auto", *SAMPLERS]
    assert completed(script, "tfgradgen sample --seed=1 --label=gold") == ["goldfish"]
    assert completed(script, "tfgradgen export --kernel=") == ["mala", "hmc"]
    assert completed(script, "tfgradgen sample --jit=") == ["auto", "true", "false"]
    assert completed(script, "tfgradgen sample lad") == ["ladybug"]
    assert completed(script, "tfgradgen completion ") == ["bash", "zsh", "fish"]
    assert completed(script, "tfgradgen diagnose out/") == []
    assert completed(script, "tfgradgen diagnose --j") == ["--json"]
    assert completed(script, "tfgradgen nothing --") == []
    for before in ("-q", "--verbose", "help", "-v  help"):
        assert completed(script, f"tfgradgen {before} sa") == ["sample"]
        assert completed(script, f"tfgradgen {before} sample --ker") == ["--kernel="]
        assert completed(script, f"tfgradgen {before} sample --kernel=ma") == ["mala", "map"]
    assert completed(script, "tfgradgen -q ") == [*COMMANDS, "help", "--version"]
    assert completed(script, "tfgradgen help ") == [*COMMANDS]


def test_completion_knows_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh", "fish"):
        main(["completion", shell])
        text = capsys.readouterr().out
        assert shell != "bash" or text == bash_script()
        for name, command in COMMANDS.items():
            assert words_of(command).keys() == {*command.known()}
            assert name in text
            for flag in command.known():
                assert f"--{flag}" in text or f"-l {flag}" in text
    assert "did you mean bash, " in refused(["completion", "bsh"], capsys)
    assert "shell: expected the name of a shell, got none" in refused(["completion"], capsys)


def test_help_version_and_completion_need_no_tensorflow(tmp_path: Path, root: Path) -> None:
    code = (
        "import sys; from tfgradgen.cli.commands import main; main(sys.argv[1:]); "
        "assert 'tensorflow' not in sys.modules, 'imported'"
    )
    for words in (["completion", "bash"], ["--version", "-v"], ["-q", "help"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=root, check=True)
        assert done.stdout


def test_a_long_run_says_how_long_before_it_starts(
    toy_flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tfgradgen.mcmc.chains._seconds", lambda fn, *arguments: 0.2)
    main([*SMALL, *LONG, *toy_flags, "--out=a"])
    assert re.search(r"^doing    sampling: 54 transitions, about 1[01] s$", capsys.readouterr().err, re.M)
    monkeypatch.setattr("tfgradgen.mcmc.chains._seconds", lambda fn, *arguments: 0.001)
    main([*SMALL, *LONG, *toy_flags, "--out=b"])
    assert "doing    sampling" not in capsys.readouterr().err
    assert np.array_equal(np.load("a/samples.npz")["z"], np.load("b/samples.npz")["z"])


@pytest.mark.slow
def test_a_search_announces_no_length_of_its_runs_but_that_they_are_short(
    toy_flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its schedules have more steps than the gradients of a run allow, and its progress says how long all runs take."""
    monkeypatch.setattr("tfgradgen.mcmc.chains._seconds", lambda fn, *arguments: 0.2)
    monkeypatch.setattr("tfgradgen.tuning.gain.MIN_ESS_OF_CHAIN", 1e6)
    numbers = ["--num_gradients=240", "--budget=240", "--num_seeds=1", "--num_fresh=2", "--num_chains=4"]
    main(["tune", "--label=goldfish", "--kernel=hmc", *numbers, *toy_flags, "--out=found"])
    said = capsys.readouterr()
    assert "doing    sampling" not in said.err
    assert re.search(r"^tune hmc: \d+ of 240 gradients", said.err, re.M)
    assert "\nwarning  runs of 240 gradients are short: " in said.out
    assert "\n- runs of 240 gradients are short: " in Path("found/report.md").read_text()
