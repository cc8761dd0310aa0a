"""The command line as a user sees it: help, errors in one line, files on disk."""

import inspect
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support import toy
from tests.support.command import FAST, FAST_MALA, refused
from tfgradgen.cli.command_flags import COMMANDS
from tfgradgen.cli.commands import fire_function, help_text, main
from tfgradgen.cli.compare_options import FLAGS as COMPARE_FLAGS
from tfgradgen.cli.export_options import FLAGS as EXPORT_FLAGS
from tfgradgen.cli.options import kernel_flags, parse_sample, sample_flags
from tfgradgen.cli.tune_options import tune_flags
from tfgradgen.core.config import RunConfig
from tfgradgen.diagnostics.model_checks import NUM_CHECKED, NUM_EVALUATIONS
from tfgradgen.diagnostics.prior_checks import NUM_FORWARD
from tfgradgen.io.store import CHECKPOINT
from tfgradgen.mcmc.auto import CHOICES
from tfgradgen.mcmc.recipe import settings_of
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.tuning.space import searched


@pytest.mark.slow
@pytest.mark.usefixtures("shared_models")
@pytest.mark.parametrize("kernel", SAMPLERS)
def test_sample_writes_grid_samples_and_record(kernel: str, toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    method = SAMPLERS[kernel]
    fast = FAST if method.schedule.num_burnin_steps else ["--num_results=4", "--num_chains=3"]
    fast += ["--num_optimization_steps=5"] if kernel == "hvi" else []
    main(["sample", "--label=goldfish", f"--kernel={kernel}", *toy_flags, *fast])
    folder = Path(f"out/goldfish-{kernel}-0")
    state = [] if kernel == "smc" else ["checkpoint.npz"]
    names = [*state, "film.png", "grid.png", "plots.png", "report.html", "run.json", "samples.npz"]
    assert sorted(path.name for path in folder.iterdir()) == names
    with np.load(folder / "samples.npz") as file:
        shapes = {name: (file[name].shape, str(file[name].dtype)) for name in file.files}
        assert shapes == {
            "z": ((4, 3, 6), "float32"),
            "image": ((3, 8, 8, 3), "uint8"),
            "class_prob": ((4, 3), "float32"),
            "target_log_prob": ((4, 3), "float32"),
            "is_accepted": ((4, 3), "bool"),
            "step_size": ((4, 3), "float32"),
            "log_accept_ratio": ((4, 3), "float32"),
        }
        has_step_size = "step_size" in method.defaults.to_dict() and kernel != "smc"
        assert np.isfinite(file["step_size"]).all() == has_step_size
        final = file["class_prob"][-1]
    record = json.loads((folder / "run.json").read_text())
    np.testing.assert_allclose(record["final_class_prob"], final)
    assert record["label"] == {"index": 0, "name": "goldfish", "wnid": "n01443537"}
    assert (record["kernel"], record["seed"], record["jit"], record["backend"]) == (kernel, 0, False, "graph")
    assert (record["arguments"]["jit"], record["arguments"]["num_chains"]) == ("auto", 3)
    assert len(record["generator"]["sha256"]) == 64
    assert {"tensorflow", "tensorflow_probability", "python", "numpy", "tfgradgen"} == set(record["versions"])
    if kernel in ("mala", "hmc", "split_hmc", "map"):
        assert (
            record["num_gradients"]
            == 3 * (1 + 8 * getattr(method.defaults, "num_leapfrog_steps", 1)) + NUM_CHECKED * NUM_EVALUATIONS
        )
        assert record["num_forward"] == 3 * RunConfig.num_init_draws + NUM_FORWARD
    assert (record["num_gradients"] > 0) == (kernel not in ("rejection", "elliptical_slice", "surrogate"))
    assert record["num_forward"] > 0
    assert (record["evidence"] is not None) == (kernel == "smc")
    assert 0 <= record["accept_rate"] <= 1
    assert kernel != "smc" or 0 < record["accept_rate"] < 1
    with Image.open(folder / "grid.png") as grid, Image.open(folder / "film.png") as film:
        assert grid.size[0] > 2 * 128
        assert film.size[0] > 4 * 128, "a column for each of four draws"
    out = capsys.readouterr().out.splitlines()
    words = [line.split()[0] for line in out]
    about = {"map": [], "hvi": ["bound"]}.get(kernel, ["mixing"])
    verdicts = [word for word in ("ok", "warning") if word in words]
    assert list(dict.fromkeys(words)) == ["ran", "p(class)", "moved", *about, *verdicts, "wrote"]
    assert words.count("warning") == len(record["problems"])
    assert [line.split(":")[0].split()[1] for line in out if line.startswith("ok ")] == [
        *(grade for grade, value in record["grades"].items() if value == "ok"),
        *([] if record["problems"] else ["checked"]),
    ]
    listed = out[-1].split(": ")[1].split(", ")
    assert listed[0] == "report.html (open it in a browser)"
    assert sorted(name.split()[0] for name in listed) == sorted(path.name for path in folder.iterdir())


@pytest.mark.usefixtures("quick_runs")
def test_several_labels_share_a_sheet_and_an_earlier_run_is_kept(
    toy_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sample", "--label=goldfish,alp", "--out=runs", *toy_flags, *FAST_MALA])
    assert sorted(path.name for path in Path("runs").iterdir()) == ["alp", "goldfish", "sheet.png"]
    capsys.readouterr()
    before = Path("runs/alp/samples.npz").read_bytes()
    assert "which exists; choose another --out or add --overwrite" in refused(
        ["sample", "--label=alp,goldfish", "--out=runs", "--seed=1", *toy_flags, *FAST_MALA], capsys
    )
    assert Path("runs/alp/samples.npz").read_bytes() == before
    main(["sample", "--label=all", "--out=runs", "--seed=1", "--overwrite", *toy_flags, *FAST_MALA])
    assert Path("runs/alp/samples.npz").read_bytes() != before


@pytest.mark.usefixtures("quick_runs")
def test_several_labels_run_as_one_batch(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", "--label=goldfish,alp", "--out=runs", *toy_flags, *FAST_MALA])
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("mala ")]
    assert len(lines) == 2, "one run of two chunks"
    assert all(line.startswith("mala 2 labels: ") for line in lines)
    assert captured.out.count("its share of a batch of 2 labels (graph mode)") == 2
    main(["sample", "--label=alp", "--out=alone", *toy_flags, *FAST_MALA])
    records = {name: json.loads(Path(name, "run.json").read_text()) for name in ("runs/goldfish", "runs/alp", "alone")}
    batch, alone = records["runs/alp"], records["alone"]
    assert batch.pop("batch") == records["runs/goldfish"]["batch"]
    assert [batch["label"]["index"], batch["label"]["name"]] == [alone["label"]["index"], "alp"]
    assert set(batch) == set(alone)
    same = (
        "prior_class_prob",
        "prior_class_prob_error",
        "prior_draws",
        "exact_starts",
        "num_scored",
        "num_not_finite",
        "doubts",
    )
    for name in (*same, "num_gradients", "num_forward"):
        assert batch[name] == alone[name], name
    assert batch["prior_class_prob"] != records["runs/goldfish"]["prior_class_prob"]
    steps = [record["step_size"] for record in records.values()]
    assert all(len(step) == 3 and len({*step}) == 1 for step in steps)
    assert len({step[0] for step in steps}) == 3, "each label tunes its own"
    for name in ("report.html", "grid.png", "plots.png", "film.png", "samples.npz", CHECKPOINT):
        assert Path("runs/alp", name).exists()
    indices = ",".join(map(str, records["runs/goldfish"]["batch"]["index"]))
    main(["sample", f"--label={indices}", "--out=again", *toy_flags, *FAST_MALA])
    for name in ("goldfish", "alp"):
        assert Path("again", name, "samples.npz").read_bytes() == Path("runs", name, "samples.npz").read_bytes()


@pytest.mark.usefixtures("quick_runs")
def test_a_batch_holds_whole_labels_of_so_many_chains(
    toy_flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfgradgen.cli.groups.MAX_CHAINS", 8)
    labels = ("goldfish", "king_penguin", "alp")
    main(["sample", "--label=all", "--out=runs", *toy_flags, *FAST_MALA])
    shown = capsys.readouterr().err
    records = [json.loads(Path("runs", label, "run.json").read_text()) for label in labels]
    assert sorted(len(record.get("batch", {"index": [0]})["index"]) for record in records) == [1, 2, 2]
    assert "batches  3 labels in 2 runs, a batch of at most 8 chains each" in shown


def test_what_moves_together_is_no_batch() -> None:
    together = {name for name, sampler in SAMPLERS.items() if not sampler.is_batched}
    assert together == {"rejection", "smc", "hvi", "chees", "surrogate"}


@pytest.mark.slow
@pytest.mark.usefixtures("sketched_plots")
def test_all_is_every_class_but_the_background(toy_pair: tuple[Path, Path], toy_flags: list[str], tmp_path: Path) -> None:
    classifier = tmp_path / "with_background"
    shutil.copytree(toy_pair[1], classifier)
    card = json.loads((classifier / "model.json").read_text())
    card["labels"][1]["background"] = True
    (classifier / "model.json").write_text(json.dumps(card))
    main(["sample", "--label=all", toy_flags[0], f"--classifier={classifier}", "--kernel=rejection", *FAST[::2]])
    assert sorted(path.name for path in Path("out/all-rejection-0").iterdir()) == ["alp", "goldfish", "sheet.png"]


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["smaple"], "did you mean sample?"),
        (["sample"], "label: expected a class"),
        (["sample", "--label=goldfsh"], "did you mean goldfish?"),
        (["sample", "--label=goldfish", "--num_chain=3"], "did you mean --num_chains?"),
        (["sample", "--label=goldfish", "--kernel=hcm"], "got 'hcm'; did you mean hmc"),
        (["sample", "--label=goldfish", "--kernel=mala", "--step_size=-1"], "step_size: expected a number above 0, got -1"),
        (["sample", "--label=goldfish", "--num_chains=0"], "num_chains: expected an integer"),
        (["sample", "--label=goldfish", "--num_chains=1e3"], "num_chains: expected an integer in 1..4096, got 1000.0"),
        (["sample", "--label=goldfish", "--seed=1e3"], "seed: expected an integer"),
        (
            ["sample", "--label=goldfish", "--kernel=mala", "--num_leapfrog_steps=3"],
            "num_leapfrog_steps: expected a flag that --kernel=mala uses",
        ),
        (
            ["sample", "--label=goldfish", "--step_size=0.1"],
            "--kernel=auto uses, got --step_size; leave it out, or name a kernel that does, such as --kernel=mala (--kernel",
        ),
        (
            ["sample", "--label=goldfish", "--kernel=auto", "--num_burnin_steps=9"],
            "such as --kernel=elliptical_slice (--kernel=",
        ),
        (["sample", "--label=goldfish", "--num_burnin_steps=9"], "auto chooses rejection or elliptical_slice)"),
        (["sample", "--label=goldfish", "--gradient_precision=bfloat16"], "such as --kernel=mala (--kernel=auto"),
        (["sample", "--label=goldfish", "--init=prior"], "such as --kernel=elliptical_slice (--kernel=auto"),
        (["sample", "--label=goldfish", "--init=prior"], "init: expected a flag that --kernel=auto uses"),
        (["export", "--labels=goldfish", "--kernel=auto", "--out=x"], "kernel: expected one of mala, hmc, got 'auto'"),
        (["sample", "--label=goldfish", "--kernel=rejection", "--step_size=0.1"], "that --kernel=rejection uses"),
        (["sample", "--label=goldfish", "--kernel=smc", "--init=prior"], "init: expected a flag that --kernel=smc uses"),
        (["sample", "--label=goldfish", "--kernel=elliptical_slice", "--gradient_precision=bfloat16"], "slice uses"),
        (["sample", "--label=goldfish", "--kernel=map", "--clip_around=class"], "clip_sigma 0, which is no bound"),
        (["sample", "--label=goldfish", "--kernel=map", "--num_adaptation_steps=3"], "that --kernel=map uses"),
        (["sample", "--label=goldfish", "--kernel=chees", "--num_chains=1"], "at least 2 for --kernel=chees"),
        (
            ["sample", "--label=goldfish", "--kernel=mala", "--num_adaptation_steps=9", "--num_burnin_steps=8"],
            "at most num_burnin_steps=8",
        ),
        (["sample", "--label=goldfish", "--jit=maybe"], "jit: expected one of auto, true, false"),
        (["sample", "--label=goldfish", "--overwrite=perhaps"], "overwrite: expected one of true, false"),
        (["sample", "--label=goldfish", "--generator=nowhere"], "model nowhere: expected a SavedModel folder"),
        (["sample", "--label=goldfish", "--out="], "out: expected a path"),
        (["sample", "goldfish", "mala", "again"], "arguments: expected flags"),
        (["sample", "--label=goldfish", "-"], "a lone -"),
        (["sample", "--label=goldfish", "--", "--seed=1"], "a lone --"),
        (["--seed=1", "sample"], "unknown command --seed=1; all commands"),
        (["sample", "--label=goldfish", "--out"], "out: expected a value"),
        (["sample", "--label=goldfish", "--out=~nobody-of-that-name/x"], "no such user has a home folder"),
        (["labels", "--label=goldfish"], "unknown flag --label; all flags: python -m tfgradgen labels --help"),
        (["labels", "--classifier=nowhere"], "model nowhere"),
        (["labels", "--classifier=~nobody-of-that-name/x"], "no such folder"),
        (["labels", f"--classifier={'x' * 300}"], "no such folder"),
        (["sample", "--label=goldfish", "--classifier=,"], "classifier: expected a model, or several as A,B, got ','"),
        (["sample", "--label=goldfish", "--classifier=~nobody-of-that-name/x"], "no such folder"),
        (["sample", "--label=goldfish", f"--classifier={'x' * 300}"], "no such folder"),
        (["sample", "--label=goldfish", "--generator=http://[::1"], "expected a URL, got Invalid IPv6 URL"),
        (["models", "now"], "arguments: expected flags"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(
    argv: list[str], text: str, toy_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [flag for flag in toy_flags if flag.split("=")[0] not in {word.split("=")[0] for word in argv}]
    with_models = argv + flags if argv[0] == "sample" else argv
    assert text in refused(with_models, capsys)
    assert not list(tmp_path.iterdir())


def test_a_run_interrupted_before_its_first_draw_leaves_nothing(
    toy_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tfgradgen.mcmc.runs.choose_starts", interrupt)
    assert "interrupted; nothing new was kept" in refused(
        ["sample", "--label=goldfish", *toy_flags, *FAST_MALA], capsys, code=130
    )
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.usefixtures("quick_runs")
def test_a_path_is_taken_as_it_is_written(toy_flags: list[str], tmp_path: Path) -> None:
    main(["sample", "--label=goldfish", "--out=2026_07_20", *toy_flags, *FAST_MALA])
    assert (tmp_path / "2026_07_20" / "run.json").exists()


def flags_shown(argv: list[str], capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Return the flags that the help of `argv` describes; no line is wider than a terminal."""
    main(argv)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    return set(re.findall(r"^  --(\w+)", shown, re.MULTILINE))


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    own = set(kernel_flags())
    for argv in (["sample", "--help"], ["sample", "--label=goldfish", "-h"], ["help", "sample"]):
        assert flags_shown(argv, capsys) == set(sample_flags()) - own
    assert flags_shown(["compare", "-h"], capsys) == set(COMPARE_FLAGS)
    assert flags_shown(["export", "-h"], capsys) == set(EXPORT_FLAGS)
    assert flags_shown(["tune", "-h"], capsys) == set(tune_flags()) - own
    for kernel in ("mala", "map"):
        held = flags_shown(["tune", "-h", f"--kernel={kernel}"], capsys) & own
        assert held == (set(searched(kernel)) if SAMPLERS[kernel].is_tuned else set())
    main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"\n  {command} " in shown for command in COMMANDS)
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_hundred_columns(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([command, "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


@pytest.mark.parametrize("kernel", SAMPLERS)
def test_help_of_a_kernel_shows_its_flags_alone(kernel: str, capsys: pytest.CaptureFixture[str]) -> None:
    sampler = SAMPLERS[kernel]
    for argv in (["sample", f"--kernel={kernel}", "--help"], ["sample", "-h", "--kernel", kernel]):
        shown = flags_shown(argv, capsys)
        assert shown & set(kernel_flags()) == set(sampler.defaults.to_dict())
        assert shown & {"num_results", "num_burnin_steps", "num_adaptation_steps"} <= set(settings_of(sampler))
        assert ("init" in shown) == sampler.takes_starts
        assert ("gradient_precision" in shown) == sampler.takes_gradients
    main(["sample", f"--kernel={kernel}", "--help"])
    out = capsys.readouterr().out
    for name, default in (sampler.defaults.to_dict() | {"num_results": sampler.schedule.num_results}).items():
        value = "" if default is False else f"={default:g}" if isinstance(default, float) else f"={default}"
        assert re.search(rf"^  --{name}{value}\b", out, re.M)


@pytest.mark.parametrize(
    ("argv", "shown", "hidden"),
    [
        (["help", "--kernel", "hmc", "sample"], "--num_leapfrog_steps=3", "--kernel=mala"),
        (["--kernel=hmc", "sample", "--help"], "Example: python -m tfgradgen sample --label=goldfish --kernel=hmc", "=mala"),
        (["sample", "goldfish", "hmc", "-h"], "--num_leapfrog_steps=3", "--kernel=mala"),
        (["sample", "--kernel", "--help"], "--kernel=mala", "--num_leapfrog_steps"),
        (["export", "--kernel=hmc", "--help"], "export --kernel=hmc", "--kernel=mala"),
        (
            ["export", "--kernel=smc", "--help"],
            "A run of smc cannot be served. Kernels that can be served: mala and hmc.",
            "--step_size",
        ),
        (["tune", "--kernel=nuts", "--help"], "--kernel=nuts --out", "--kernel=hmc"),
        *((["help", name], "--seed=0", "samples.npz") for name in ("tune", "compare", "check", "export")),
    ],
)
def test_help_is_of_what_is_asked_for(argv: list[str], shown: str, hidden: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(argv)
    out = capsys.readouterr().out
    assert shown in out
    assert hidden not in out


def test_help_names_a_mistyped_flag(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["sample", "--lable=3", "--help"], ["--lable", "3", "sample", "-h"]):
        assert "unknown flag --lable; did you mean --label?" in refused(argv, capsys)


def test_a_switch_is_true_or_false(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["diagnose", "out", "--strict=maybe"], capsys)
    assert "strict: expected one of true, false, got 'maybe'" in said


def test_help_of_a_kernel_that_does_not_exist_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean hmc" in refused(["sample", "--kernel=hcm", "--help"], capsys)


def test_kernels_lists_each_sampler_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["kernels"])
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.split()[0] == "auto"
    assert all(sampler in first for sampler, _ in CHOICES)
    assert [line.split()[:2] for line in lines] == [[name, sampler.kind] for name, sampler in SAMPLERS.items()]
    assert max(map(len, [first, *lines])) <= 100
    for line, sampler in zip(lines, SAMPLERS.values(), strict=True):
        assert f"  {sampler.exactness}  " in line
        assert line.endswith(f"  {sampler.about}")
        assert (sampler.exactness in ("exact", "asymptotically exact")) == sampler.is_calibrated(sampler.defaults)


def test_fire_gets_the_flags_that_are_declared() -> None:
    for command in COMMANDS.values():
        function = fire_function(command)
        names = list(inspect.signature(function).parameters)
        assert names[: len(command.places)] == list(command.places)
        assert {*command.flags(), *command.places} == set(names) - {"extra", "flags"}
        assert function.__doc__ == help_text(command.name)


def test_labels_come_from_the_card_or_from_the_model(
    toy_pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["labels", f"--classifier={toy_pair[1]}"])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["0", "n01443537", "goldfish"],
        ["1", "n02056570", "king_penguin"],
        ["2", "-", "alp"],
    ]
    folder = Path(shutil.copytree(toy_pair[1], tmp_path / "foreign"))
    (folder / "model.json").write_text(json.dumps({"labels": ["one\x1b[2J\nline", "ä", "c"], "image_range": [-1, 1]}))
    main(["labels", f"--classifier={folder}"])
    assert capsys.readouterr().out.splitlines() == [
        "   0  -           one\\x1b[2J\\nline",
        "   1  -           ä",
        "   2  -           c",
    ]
    (tmp_path / "names.txt").write_text("x\ny\nz\n")
    main(["labels", f"--classifier={folder}", f"--classifier_labels={tmp_path / 'names.txt'}"])
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["x", "y", "z"]
    thousand = lambda x: tf.zeros([tf.shape(x)[0], 1000]) + x[:, 0, 0]  # noqa: E731
    wide = toy.save(tmp_path / "wide", thousand, [None, 8, 8, 1], {"labels": "imagenet"})
    main(["labels", f"--classifier={wide}"])
    lines = capsys.readouterr().out.splitlines()
    assert (len(lines), lines[1].split()) == (1000, ["1", "n01443537", "goldfish"])


def test_defaults_that_follow_other_flags() -> None:
    options = parse_sample({"label": 0, "kernel": "nuts", "num_burnin_steps": 40, "jit": "False"})
    whole = SAMPLERS["nuts"].schedule
    share = whole.num_adaptation_steps / whole.num_burnin_steps
    assert (options.schedule.num_burnin_steps, options.schedule.num_adaptation_steps) == (40, int(share * 40))
    assert options.run.jit is False
    assert parse_sample({"label": 0, "kernel": "hmc", "num_burnin_steps": 0}).schedule.num_adaptation_steps == 0
