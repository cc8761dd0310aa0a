"""The export command as a user sees it: folders, versions, errors, and the files next to a version."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tests.support.command import CTRL_C, FULL_DISK, refused
from tfgradgen.cli.beside import check_base, digests, write_beside, written_before
from tfgradgen.cli.commands import main
from tfgradgen.cli.export_options import parse_export
from tfgradgen.cli.output import next_version
from tfgradgen.core.checks import UserError
from tfgradgen.io.folders import exclusive_lock
from tfgradgen.media.video import Video
from tfgradgen.serving.deployment_files import TEMPLATES, XLA_FLAG, Settings, render_templates

FILES = {
    *("batching.config", "docker-compose.yml", "grpc_client.py", "models.config", "monitoring.config", "rest_client.py"),
}
FEW = ["--num_chains=2", "--num_steps=2", "--num_start_draws=2", "--batch_sizes=1"]


def record(version: Path) -> dict[str, Any]:
    return json.loads((version / "export.json").read_text())


def test_a_version_is_whole_and_says_how_it_was_made(served: Path) -> None:
    assert {path.name for path in served.parent.iterdir()} == {"1", *FILES}
    parts = {"saved_model.pb", "variables", "assets", "assets.extra", "fingerprint.pb", "export.json"}
    assert {path.name for path in served.iterdir()} == parts
    found = record(served)
    assert [(label["name"], label["wnid"], label["index"]) for label in found["labels"]] == [
        ("goldfish", "n01443537", 0),
        ("king_penguin", "n02056570", 1),
        ("alp", "", 2),
    ]
    sizes = [label["step_size"] for label in found["labels"]]
    assert len(set(sizes)) == 3, "each label has its own"
    assert all(0.2 < size < 5 for size in sizes)
    assert all(0 <= label["accept_rate"] <= 1 for label in found["labels"])
    assert (found["arguments"]["num_steps"], found["arguments"]["max_steps"]) == (5, 12)
    assert found["signatures"] == [
        *("serving_default", "sample", "continue", "grid"),
        *("serving_batched", "sample_batched", "continue_batched", "grid_batched", "serving_xla"),
    ]
    assert found["beside"] == {name: hashlib.sha256((served.parent / name).read_bytes()).hexdigest() for name in FILES}
    assert found["row_check"]["num_rows"] == 4
    assert found["row_check"]["is_independent"] is True
    assert found["row_check"]["row_gap"] == 0
    assert len(found["generator"]["sha256"]) == 64


def test_clients_call_what_they_ask_for_by_its_name() -> None:
    found = render_templates("acts", Settings((1,)), Video)
    for name in ("rest_client.py", "grpc_client.py"):
        assert found[name].startswith('"""A clip over')
        assert 'f"no clip from {address}: {error}"' in found[name]
        assert "-grid' * bool(grid)}.gif" in found[name], "a grid has a name of its own"


def test_settings_fit_one_another() -> None:
    found = render_templates("birds", Settings((1, 8), xla=True))
    assert found.keys() == FILES
    assert 'name: "birds"' in found["models.config"]
    assert 'base_path: "/models/birds"' in found["models.config"]
    assert "max_batch_size { value: 8 }" in found["batching.config"]
    assert re.findall(r"^allowed_batch_sizes: (\d+)$", found["batching.config"], re.M) == ["1", "8"]
    compose = found["docker-compose.yml"]
    assert "- .:/models/birds:ro" in compose
    named = {"model_config_file": "models", "batching_parameters_file": "batching", "monitoring_config_file": "monitoring"}
    for flag, name in named.items():
        assert f"- --{flag}=/models/birds/{name}.config" in compose
    assert f"- {XLA_FLAG}" in compose
    assert XLA_FLAG not in render_templates("birds", Settings((1, 8)))["docker-compose.yml"]
    for name, text in found.items():
        assert set(re.findall(r"\$\S+", text)) <= {"${TENSORFLOW_SERVING_IMAGE:-tensorflow/serving:latest}"}, name
        assert text.count("{") == text.count("}")
    assert {path.stem for path in TEMPLATES.iterdir()} == FILES


@pytest.mark.slow
def test_versions_follow_and_what_was_changed_is_kept(
    untuned: None, toy_flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["export", "--labels=goldfish & !alp", "--kernel=hmc", *FEW, *toy_flags, "--out=its/models"]
    with monkeypatch.context() as patch:  # the graphs of the first version, which nothing below reads
        patch.setattr("tfgradgen.cli.export.write_saved_model", lambda *args: ["sample"])
        main(command)
    captured = capsys.readouterr()
    assert "exported" in captured.out
    assert "warning  goldfish & !alp: a warning (tfgradgen/diagnostics/README.md#models)" in captured.err
    base = Path("its/models")
    (base / "rest_client.py").write_text("mine")
    (base / "7").mkdir()
    assert next_version(base) == 8
    said = refused([*command, "--version=1"], capsys)
    assert "expected one that is not in" in said
    assert "--version=8 is free" in said
    main([*(word for word in command if "--batch_sizes" not in word), "--batch_sizes=1,2"])
    out = capsys.readouterr().out
    assert (base / "8" / "saved_model.pb").exists()
    assert (base / "rest_client.py").read_text() == "mine"
    assert "allowed_batch_sizes: 2" in (base / "batching.config").read_text(), "nobody edited it"
    assert "rest_client.py, which differs from the file of this version: see rest_client.py.new" in out
    assert f"python {base.absolute()}/rest_client.py.new 'goldfish & !alp'" in out
    assert ".config, which" not in out
    assert "docker-compose.yml, which" not in out
    assert {path.name for path in base.iterdir()} == {"1", "7", "8", *FILES, "rest_client.py.new"}

    found = record(base / "8")
    assert (found["arguments"]["kernel"], found["arguments"]["num_steps"]) == ("hmc", 2)
    module = tf.saved_model.load(str(base / "8"))
    served = module.signatures["serving_default"]
    assert served(label=tf.constant(["goldfish & !alp"]), seed=tf.constant([1], tf.int64))["z"].shape == (1, 6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="goldfish & !alp; got"):
        served(label=tf.constant(["1"]), seed=tf.constant([1], tf.int64))  # king_penguin was not exported


def test_files_that_nobody_edited_are_those_of_the_highest_version(
    untuned: None, toy_flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfgradgen.cli.export.write_saved_model", lambda *args: ["sample"])  # takes most of the time
    command = ["export", "--labels=alp", "--kernel=hmc", "--num_chains=2", "--num_start_draws=2", "--out=x", *toy_flags]
    client = Path("x/rest_client.py")
    main([*command, "--num_steps=1", "--batch_sizes=1"])
    assert '"num_steps": 1}' in client.read_text()
    main([*command, "--num_steps=2", "--batch_sizes=2", "--version=5"])
    assert '"num_steps": 2}' in client.read_text()
    assert "allowed_batch_sizes: 2" in Path("x/batching.config").read_text()
    main([*command, "--num_steps=3", "--batch_sizes=2", "--version=4"])
    assert '"num_steps": 2}' in client.read_text(), "a server loads version 5"
    assert '"num_steps": 3}' in Path("x/rest_client.py.new").read_text()
    news = ("rest_client.py.new", "grpc_client.py.new")
    assert {path.name for path in Path("x").iterdir()} == {"1", "4", "5", *FILES, *news}


@pytest.mark.parametrize("content", ["{", "[]", '{"beside": 3}', '{"beside": {"a": []}}', "{}"])
def test_a_damaged_record_makes_all_files_count_as_edited(content: str, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "export.json").write_text(content)
    assert ("rest_client.py", "") not in written_before(tmp_path)
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "export.json").write_text(json.dumps({"beside": digests({"a": "1"})}))
    (tmp_path / "a").write_text("1")
    assert write_beside(tmp_path, {"a": "2"}, written_before(tmp_path)) == []
    assert write_beside(tmp_path, {"a": "3"}, written_before(tmp_path)) == ["a"]


@pytest.mark.parametrize(
    ("out", "text"),
    [
        ("model", "which is a model or a version of one"),
        ("model/new", "which is in the model "),
        ("link", "which is a model or a version of one"),
        ("served/1", "which is a model or a version of one"),
        ("served/1/assets", "which is in the model "),
        ("run", "which holds run.json"),
        ("digits", "which has no models.config"),
        ("models", "which holds birds"),
    ],
)
def test_folders_of_something_else_are_refused_before_models_load(
    out: str,
    text: str,
    toy_flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = ("model/saved_model.pb", "served/1/saved_model.pb", "served/1/export.json", "run/run.json", "models/models.config")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    for name in ("served/1/assets", "digits/0", "digits/1", "models/birds"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("model")
    before = sorted(tmp_path.rglob("*"))
    said = refused(["export", "--labels=alp", f"--out={out}", *FEW, *toy_flags], capsys)
    assert "out: expected a" in said
    assert text in said
    assert said.endswith("choose another --out (nothing was changed).")
    assert sorted(tmp_path.rglob("*")) == before


def test_folders_of_earlier_exports_are_welcome(tmp_path: Path) -> None:
    for name in ("whole/1", "emptied", "stopped/.1.partial-abc", "empty"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "whole" / "1" / "export.json").write_text("{}")
    (tmp_path / "whole" / "notes.txt").write_text("mine")
    for name in ("models.config", "rest_client.py", "rest_client.py.new"):
        (tmp_path / "emptied" / name).write_text("")
    for name in ("whole", "emptied", "stopped", "empty", "missing"):
        check_base(tmp_path / name)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], "out: expected a folder for the versions of the model, got none; give --out=BASE"),
        (["--out=/"], "out: expected a folder with a name of its own"),
        (["--out=file"], "out: expected a folder"),
        (["--out=x", "--labels=goldfsh"], "did you mean goldfish?"),
        (["--out=x", "--kernel=nuts"], "kernel: expected one of mala, hmc, got 'nuts'"),
        (["--out=x", "--numsteps=3"], "did you mean --num_steps"),
        (["--out=x", "--num_burnin_steps=3"], "unknown flag --num_burnin_steps"),
        (["--out=x", "--num_steps=0"], "num_steps: expected an integer in 1.."),
        (["--out=x", "--num_steps=20", "--max_steps=10"], "max_steps: expected at least num_steps=20, got 10"),
        (["--out=x", "--version=0"], "version: expected an integer"),
        (["--out=x", "--version=one"], "version: expected an integer"),
        (["--out=x", "--batch_sizes=4,1"], "batch_sizes: expected rising whole numbers in 1..1024, got (4, 1)"),
        (["--out=x", "--batch_sizes=0,1"], "batch_sizes"),
        (["--out=x", "--num_start_draws=no"], "num_start_draws: expected an integer"),
        (["--out=x", "--xla=maybe"], "xla: expected one of true, false"),
        (["--out=x", "--num_leapfrog_steps=2"], "a flag that --kernel=mala uses"),
        (["--out=x", "--generator=nowhere"], "model nowhere"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(
    flags: list[str], text: str, toy_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    own = {flag.split("=")[0] for flag in flags}
    more = [flag for flag in toy_flags if flag.split("=")[0] not in own]
    assert text in refused(["export", *flags, *more], capsys)
    assert os.listdir() == ["file"]


def test_networks_that_differ_by_label_are_exported_each_for_itself(
    toy_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(["export", "--labels=goldfish & !alp, king_penguin", "--out=x", *toy_flags], capsys)
    assert "2, each with networks of its own; export each under its own --out" in said
    assert not list(tmp_path.iterdir())


@pytest.fixture
def failed_export(
    untuned: None, toy_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str, BaseException, int], str]:
    """Run an export in which the function `at` raises `error`; return its one line. It must leave nothing behind."""

    def export(at: str, error: BaseException, code: int) -> str:
        def fail_at(*args: Any, **settings: Any) -> None:
            raise error

        monkeypatch.setattr(at, fail_at)
        said = refused(["export", "--labels=alp", "--out=x", *FEW, *toy_flags], capsys, code)
        assert not list(tmp_path.iterdir())
        return said

    return export


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [(CTRL_C, 130, "interrupted; nothing was exported"), (FULL_DISK, 2, "No space left on device")],
    ids=["Ctrl-C", "full disk"],
)
def test_an_export_that_is_cut_off_leaves_nothing(
    error: BaseException, code: int, text: str, failed_export: Callable[[str, BaseException, int], str]
) -> None:
    assert text in failed_export("tfgradgen.serving.export.write_warmup", error, code)


def test_the_readme_embeds_with_files_that_an_export_writes(root: Path) -> None:
    _, _, section = (root / "tfgradgen" / "serving" / "README.md").read_text().partition("## Export, start, ask")
    commands = re.findall(r"^    (\S.*)$", section.partition("\n## ")[0], re.M)
    assert len(commands) == 3
    flags = dict(word.lstrip("-").split("=") for word in commands[0].split("tfgradgen export ")[1].split())
    out = parse_export(flags).out.relative_to(Path.cwd())
    for command in commands[1:]:
        assert set(re.findall(rf"{out}/([\w.-]+)", command)) <= FILES
    assert [word for command in commands[1:] for word in command.split() if str(out) in word]
    label = commands[2].split()[2]
    assert label in flags["labels"].split(",")


def test_an_export_follows_a_schedule(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    path.write_text("kernel: hmc\nstep_size: 0.7\nnum_leapfrog_steps: 4\nadaptation: simple\n")
    flags = {"labels": "goldfish", "kernel": None, "out": str(tmp_path / "served"), "schedule": str(path)}
    options = parse_export(flags | {"step_size": 0.5})
    assert (options.pair.kernel, options.num_steps) == ("hmc", 25)
    settings = options.pair.kernel_config.to_dict()
    assert (settings["step_size"], settings["num_leapfrog_steps"], settings["adaptation"]) == (0.5, 4, "simple")
    path.write_text("kernel: mala\nclass_reg: 0.5\n")
    with pytest.raises(UserError, match="class_reg: expected 0, because a served chain samples the posterior"):
        parse_export(flags)


@pytest.mark.parametrize("kind", [tf.errors.ResourceExhaustedError, tf.errors.UnknownError, tf.errors.PermissionDeniedError])
def test_a_full_disk_under_tensorflow_is_one_line(kind: Any, failed_export: Callable[[str, BaseException, int], str]) -> None:
    full = kind(None, None, "variables.data; No space left on device\n\x1b[2J" + "x" * 10**5)
    said = failed_export("tensorflow.saved_model.save", full, 2)
    assert "out: expected a folder that can be written, got " in said
    assert "No space left on device" in said
    assert said.isprintable()
    assert len(said) < 450


def test_what_a_killed_export_left_is_cleared_by_the_next(untuned: None, toy_flags: list[str]) -> None:
    left = [Path("x/.1.partial-abc"), Path("x/.7.partial-def")]
    for folder in left:
        folder.mkdir(parents=True)
        (folder / "saved_model.pb").write_text("half")
    others = (
        Path("x/.mine"),
        Path("x/.holiday.partial-2019"),
        Path("x/.goldfish.partial-ab12.old"),
        Path("x/.3.partial-ab.old"),
    )
    for folder in others:
        folder.mkdir()
    main(["export", "--labels=alp", "--kernel=hmc", "--out=x", *FEW, *toy_flags])
    assert {path.name for path in Path("x").iterdir()} == {"1", *(path.name for path in others), *FILES}


def test_two_exports_do_not_work_in_one_folder(untuned: None, toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("x").mkdir()
    with exclusive_lock(Path("x")):
        assert "another one running in " in refused(["export", "--labels=alp", "--out=x", *FEW, *toy_flags], capsys)
