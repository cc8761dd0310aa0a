"""tg.sample and its result: the draws, images, diagnosis and files of the command, from Python."""

import copy
import html
import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfgradgen as tg
from tests.support import toy
from tfgradgen.cli.commands import main
from tfgradgen.core.text import as_python, parameter
from tfgradgen.io.images import decode

FEW: dict[str, Any] = {"num_results": 4, "num_chains": 3}


@pytest.fixture(scope="module")
def posterior(toy_pair: tuple[Path, Path]) -> tg.ClassPosterior:
    return tg.ClassPosterior(tg.load_generator(toy_pair[0]), tg.load_classifier(toy_pair[1]), 0)


@pytest.fixture(scope="module")
def result(posterior: tg.ClassPosterior) -> tg.SampleResult:
    return tg.sample(posterior, num_burnin_steps=4, **FEW)


@pytest.fixture(scope="module")
def saved(result: tg.SampleResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of `result`, which tests must not change."""
    return result.save(tmp_path_factory.mktemp("saved") / "run")


@pytest.mark.usefixtures("shared_models")
@pytest.mark.parametrize("kernel", ["mala", "rejection", "smc"])
def test_it_is_the_command_s_run(
    kernel: str, posterior: tg.ClassPosterior, toy_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Draws, arrays, image files and printed lines are equal to the byte; the record differs only in entries of flags."""
    counts = {**FEW, **({"num_burnin_steps": 4} if kernel == "mala" else {})}
    main(["sample", "--label=goldfish", f"--kernel={kernel}", *(f"--{name}={n}" for name, n in counts.items()), *toy_flags])
    lines = capsys.readouterr().out.splitlines()[:-1]
    result = tg.sample(posterior, kernel, **counts)
    command, saved = Path(f"out/goldfish-{kernel}-0"), result.save("out/python")
    for name in ("samples.npz", "grid.png", "film.png", "plots.png"):
        assert (saved / name).read_bytes() == (command / name).read_bytes(), name
    theirs, ours = (json.loads((folder / "run.json").read_text()) for folder in (command, saved))
    assert list(ours) == list(theirs)
    assert {name for name in ours if ours[name] != theirs[name]} - {"seconds"} == {"arguments"}
    for name, value in ours["arguments"].items():
        if name != "label":
            assert value == theirs["arguments"][name], name
    time = r"(in|about) \d+ (s|minutes)"
    without_time = [re.sub(time, "", line) for line in result.summary().splitlines()]
    assert without_time == [re.sub(time, "", as_python(line)) for line in lines]
    assert main(["diagnose", "out/python"]) is None, "the command reads what Python saved"


def test_shapes_types_and_images(posterior: tg.ClassPosterior, result: tg.SampleResult) -> None:
    assert (result.z.shape, result.z.dtype) == ((4, 3, 6), np.float32)
    assert (result.class_prob.shape, result.target_log_prob.shape) == ((4, 3), (4, 3))
    assert (result.images.shape, result.images.dtype) == ((3, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(result.images, decode(posterior.generator, result.z[-1]))
    np.testing.assert_allclose(posterior.unnormalized_log_prob(result.z), result.target_log_prob, rtol=1e-5)
    assert {"class_prob", "target_log_prob"} < {*result.statistics}
    assert repr(result) == ("SampleResult(label='goldfish', kernel='mala', num_results=4, num_chains=3, latent_dim=6)")


def test_nothing_is_decoded_before_it_is_asked_for(posterior: tg.ClassPosterior, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("tfgradgen.api.last_images", lambda *args: asked.append(1) or (np.zeros((3, 8, 8, 3), np.uint8), []))
    result = tg.sample(posterior, "rejection", **FEW)
    repr(result)
    assert not asked
    _ = result.images, result.issues, result.images
    assert asked == [1]


def test_settings_by_name_by_config_and_by_recipe_are_one_run(posterior: tg.ClassPosterior, tmp_path: Path) -> None:
    config = tg.MalaConfig(step_size=0.3, target_accept_prob=0.5)
    counts = {"num_burnin_steps": 6, **FEW}
    defaults = tg.SAMPLERS["mala"].defaults.to_dict()
    by_name = tg.sample(posterior, **{**defaults, **config.to_dict()}, **counts)
    (tmp_path / "best.yaml").write_text("kernel: mala\nstep_size: 0.3\ntarget_accept_prob: 0.5\nnum_burnin_steps: 6\n")
    for kernel in (config, tg.Recipe("mala", config, tg.Schedule(4, 6, 4))):
        np.testing.assert_array_equal(tg.sample(posterior, kernel, **counts).z, by_name.z)
    read = tg.sample(posterior, tg.read_recipe(tmp_path / "best.yaml"), **FEW)
    assert read.record["arguments"]["kernel_config"]["step_size"] == 0.3
    assert read.record["arguments"]["schedule"] == {"num_results": 4, "num_burnin_steps": 6, "num_adaptation_steps": 4}
    assert np.any(tg.sample(posterior, step_size=0.1, **counts).z != by_name.z), "a setting has an effect"


def test_a_run_by_chunks_has_the_posterior_s_temperature(posterior: tg.ClassPosterior) -> None:
    recipe = tg.sample.__globals__["default_recipe"]("rejection").changed({"num_results": 2})
    with pytest.raises(tg.UserError, match=r"^temperature: expected 1, which the posterior has, got 3\.0; give RunConfig"):
        tg.iter_chunks(posterior, recipe, tg.RunConfig(temperature=3.0))
    warm = posterior.copy(temperature=tf.constant(1.7))
    for run in (tg.RunConfig(num_chains=2), tg.RunConfig(num_chains=2, temperature=1.7)):
        assert tg.collect(tg.iter_chunks(warm, recipe, run)).draws.z.shape[:2] == (2, 2)


def test_starts(posterior: tg.ClassPosterior) -> None:
    z = np.linspace(-1, 1, 6)
    tiny = {"step_size": 1e-6, "num_burnin_steps": 0, **FEW}
    at = tg.sample(posterior, init=z, **tiny)
    np.testing.assert_allclose(at.z, np.broadcast_to(z, (4, 3, 6)), atol=1e-3)
    assert at.record["exact_starts"] is None
    prior, resampled = (tg.sample(posterior, init=init, **tiny) for init in ("prior", "resample"))
    assert (prior.record["exact_starts"], resampled.record["exact_starts"]) == (None, 3)


@pytest.mark.usefixtures("sketched_plots")
def test_numbers_of_numpy_are_numbers(posterior: tg.ClassPosterior, tmp_path: Path) -> None:
    counts = {name: np.int64(value) for name, value in FEW.items()}
    result = tg.sample(posterior, "hmc", num_burnin_steps=np.int32(2), step_size=np.float32(0.25), seed=np.uint8(3), **counts)
    assert json.loads((result.save(tmp_path / "run") / "run.json").read_text())["seed"] == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"stepsize": 0.1}, r"stepsize: expected a setting of mala: step_size, .*, got 0\.1; did you mean step_size"),
        ({"num_chain": 4}, r"num_chain: .*did you mean num_chains"),
        ({"num_leapfrog_steps": 3}, r"num_leapfrog_steps: .* of mala.*; leave it out, or choose another kernel\."),
        ({"kernel": "malla"}, r"kernel: expected one of .*, got 'malla'; did you mean mala"),
        ({"kernel": 3}, r"kernel: expected one of "),
        ({"kernel": "rejection", "init": "prior"}, r"init: expected an argument that kernel rejection uses"),
        ({"kernel": "rejection", "num_burnin_steps": 3}, r"num_burnin_steps: expected a setting of rejection: num_results"),
        ({"kernel": "chees", "num_chains": 1}, r"num_chains: expected at least 2 for kernel='chees', which"),
        ({"kernel": tg.KernelConfig()}, r"kernel: expected a config of one kernel"),
        ({"init": [1.0, 2.0]}, r"init: .* of 6 finite numbers, got shape \[2\]"),
        ({"init": [np.nan] * 6}, r"init: .*finite"),
        ({"init": "given"}, r"init: "),
        ({"init": "nowhere"}, r"init: expected 'resample', 'prior', .* got 'nowhere'; check the path"),
        ({"num_chains": 0}, r"num_chains: .*1\.\.4096, got 0; give a value in that range\."),
        ({"num_chains": 2.5}, r"num_chains: .*; give a whole number, for example num_chains=1\."),
        ({"num_results": 0}, r"num_results: "),
        ({"num_adaptation_steps": 99, "num_burnin_steps": 2}, r"num_adaptation_steps: .* so raise num_burnin_steps too\."),
        ({"seed": -1}, r"seed: "),
        ({"jit": "yes"}, r"jit: "),
        ({"step_size": -1.0}, r"step_size: "),
        ({"posterior": "goldfish"}, r"posterior: expected a tfgradgen\.ClassPosterior, got str; build one"),
    ],
)
def test_what_cannot_be_used_is_one_line_in_python_s_words(
    arguments: dict[str, Any], said: str, posterior: tg.ClassPosterior
) -> None:
    with pytest.raises(tg.UserError, match=said) as caught:
        tg.sample(**{"posterior": posterior, **arguments})
    assert "\n" not in str(caught.value)
    assert not re.search(r"(^|\s)--\w", str(caught.value)), "no flag of the command line"


def test_problems_of_a_run_are_issues(posterior: tg.ClassPosterior, capfd: pytest.CaptureFixture[str]) -> None:
    """It is no Python warning and is not printed; warnings are errors here."""
    result = tg.sample(posterior, step_size=500.0, num_burnin_steps=0, num_results=30, num_chains=2)
    assert any("the steps are too large there; lower step_size (about" in issue for issue in result.issues)
    assert [line for line in result.summary().splitlines() if line.startswith("warning ")] == [
        f"warning  {issue}" for issue in result.issues
    ]
    assert result.grades["means"] == "warning"
    healthy = tg.sample(posterior, "rejection", num_results=300, num_chains=4)
    assert healthy.issues == []
    assert healthy.grades == {"images": "ok", "means": "ok"}
    assert "ok       checked: models" in healthy.summary()
    assert capfd.readouterr() == ("", "")


def test_without_a_kernel_in_xla_it_goes_on_and_says_so(posterior: tg.ClassPosterior, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfgradgen.api.without_xla", lambda posterior, run: "no compilation (no kernel for X)")
    result = tg.sample(posterior, num_burnin_steps=0, **FEW)
    assert result.record["backend"] == "graph"
    assert any(issue.startswith("graph mode, without XLA: no compilation (no kernel for X) (") for issue in result.issues)


@pytest.mark.usefixtures("sketched_plots")
def test_models_that_are_callables_can_be_sampled_and_saved(tmp_path: Path) -> None:
    posterior = tg.ClassPosterior(toy.ToyGenerator(), toy.ToyClassifier(), 1, temperature=tf.constant(2.0))
    result = tg.sample(posterior, "hmc", num_burnin_steps=4, **FEW)
    assert (result.record["label"]["name"], result.record["arguments"]["temperature"]) == ("1", 2.0)
    assert tg.load_run(result.save(tmp_path / "run")).images.shape == (3, 2, 2, 1)


@pytest.mark.usefixtures("sketched_plots")
def test_each_chain_may_have_a_label_of_its_own(posterior: tg.ClassPosterior, tmp_path: Path) -> None:
    batch = posterior.copy(label=["alp", "goldfish", "alp"])
    with pytest.raises(tg.UserError, match=r"num_chains: expected 3, a chain for each label .*, got 16; give num_chains=3\."):
        tg.sample(batch, num_chains=16)
    read = tg.load_run(tg.sample(batch, num_burnin_steps=2, **FEW).save(tmp_path / "run"))
    assert read.record["label"] == {"index": [2, 0, 2], "name": "alp, goldfish", "wnid": ["", "n01443537", ""]}
    assert read.images.shape == (3, 8, 8, 3)


def test_a_label_by_name_or_condition(posterior: tg.ClassPosterior) -> None:
    assert repr(tg.sample(posterior.copy(label="alp"), "rejection", **FEW)).startswith("SampleResult(label='alp',")
    either = tg.sample(posterior.copy(label="alp | goldfish"), "rejection", **FEW)
    assert either.record["label"]["name"] == either.record["arguments"]["label"]
    assert "alp" in either.summary().splitlines()[0]


def test_tensor_float_32_is_off(posterior: tg.ClassPosterior) -> None:
    tf.config.experimental.enable_tensor_float_32_execution(True)
    tg.sample(posterior, "rejection", **FEW)
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_a_bar_where_it_is_asked_for(posterior: tg.ClassPosterior, capfd: pytest.CaptureFixture[str]) -> None:
    tg.sample(posterior, num_burnin_steps=4, progress=True, **FEW)
    assert re.search(r"mala: 100%\|.*\| 8/8 .*accept=", capfd.readouterr().err)


def test_a_run_shows_its_states_and_can_be_ended(posterior: tg.ClassPosterior) -> None:
    """It shows them before its end, in the burn-in too. What was drawn equals a run of as many draws, bit for bit."""
    long: dict[str, Any] = {"num_chains": 3, "num_burnin_steps": 40, "seed": 5}
    seen: list[np.ndarray] = []

    def until_drawn(chunk: Any) -> bool:
        states = chunk.draws.z if len(chunk.draws.z) else chunk.discarded.z
        seen.append(states[-1])
        return len(chunk.draws.z) > 0

    ended = tg.sample(posterior, "mala", num_results=5000, chunk_fn=until_drawn, **long)
    count = len(ended.z)
    assert 0 < count < 5000
    assert len(seen) > 1
    assert np.array_equal(seen[-1], ended.z[-1])
    whole = tg.sample(posterior, "mala", num_results=count, **long)
    assert np.array_equal(ended.z, whole.z)
    assert ended.record["arguments"] == whole.record["arguments"]
    assert ended.record["problems"] == whole.record["problems"]
    with pytest.raises(tg.UserError, match="sample: expected a draw of each chain, got chunk_fn, which ended the run before"):
        tg.sample(posterior, "mala", chunk_fn=lambda chunk: True, **long)


def test_a_notebook_shows_images_and_summary(result: tg.SampleResult, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = result._repr_html_()
    assert shown.startswith('<img alt="')
    assert 'src="data:image/png;base64,iVBOR' in shown
    assert html.escape(result.summary()) in shown
    record = result.record | {"label": {"name": "<script>alert(1)</script>\x1b[31m"}}
    hostile = tg.SampleResult(record, result.draws, lambda: (record, result.images), result.grid)
    assert "<script>" not in hostile._repr_html_()
    assert "\x1b" not in hostile._repr_html_() + repr(hostile)


@pytest.mark.usefixtures("quick_runs")
def test_the_tree_is_that_of_chains_nc(result: tg.SampleResult, toy_flags: list[str]) -> None:
    import xarray

    few = ["--kernel=mala", "--num_results=4", "--num_chains=3", "--num_burnin_steps=4"]
    main(["sample", "--label=goldfish", *few, "--netcdf", *toy_flags])
    with xarray.open_datatree("out/goldfish-mala-0/chains.nc", engine="h5netcdf") as file:
        theirs, ours = file.load(), result.to_datatree()
    own = ("created_at", "arguments", "sampling_time")
    for group in ("posterior", "sample_stats"):
        xarray.testing.assert_equal(ours[group].to_dataset(), theirs[group].to_dataset())
        for name, variable in ours[group].data_vars.items():
            assert variable.dtype == theirs[group][name].dtype, name
    for group in ("/", "posterior", "sample_stats"):
        attributes = [{k: v for k, v in tree[group].attrs.items() if k not in own} for tree in (ours, theirs)]
        assert attributes[0] == attributes[1]


def test_without_xarray_it_is_said(result: tg.SampleResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(tg.UserError, match=r"to_datatree: expected xarray.*pip install 'tfgradgen\[netcdf\]'"):
        result.to_datatree()


@pytest.mark.usefixtures("sketched_plots")
def test_saving_replaces_only_runs(result: tg.SampleResult, tmp_path: Path) -> None:
    folder = result.save(tmp_path / "deep" / "run")
    files = {"report.html", "grid.png", "plots.png", "film.png", "samples.npz", "run.json"}
    assert {path.name for path in folder.iterdir()} == files
    before = (folder / "run.json").read_bytes()
    with pytest.raises(
        tg.UserError, match=r"folder: expected a new folder, got .*; choose another folder or add overwrite=True\."
    ):
        result.save(folder)
    result.save(folder, overwrite=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(tg.UserError, match=r"which also holds notes\.txt; .*nothing was changed"):
        result.save(folder, overwrite=True)
    assert (folder / "run.json").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(tg.UserError, match="expected a folder"):
        result.save(tmp_path / "file")
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted([*files, "notes.txt", "deep", "run", "file"])


@pytest.mark.parametrize("folder", [None, 3, b"x", "a\0b", "~nosuchuser/x", "", True])
def test_a_folder_that_is_no_path_is_one_line(folder: Any, result: tg.SampleResult) -> None:
    with pytest.raises(tg.UserError, match=r"^folder: expected a path, got "):
        result.save(folder)


def test_overwrite_is_true_or_false(result: tg.SampleResult, tmp_path: Path) -> None:
    for given in ("no", 1, None):
        with pytest.raises(tg.UserError, match=r"^overwrite: expected one of True, False, got "):
            result.save(tmp_path / "run", overwrite=given)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_an_error_while_it_saves_leaves_nothing(
    result: tg.SampleResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **arrays: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tfgradgen.results.files.np.savez_compressed", full)
    with pytest.raises(tg.UserError, match="No space left on device"):
        result.save(tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_run_is_read_again(result: tg.SampleResult, tmp_path: Path) -> None:
    folder = result.save(tmp_path / "run")
    read = tg.load_run(folder)
    for name, column in result.draws._asdict().items():
        np.testing.assert_array_equal(getattr(read.draws, name), column)
    np.testing.assert_array_equal(read.images, result.images)
    assert (read.record, read.issues, read.summary()) == (result.record, result.issues, result.summary())
    again = read.save(tmp_path / "again")
    for path in folder.iterdir():
        if path.suffix == ".png":
            np.testing.assert_array_equal(np.asarray(Image.open(again / path.name)), np.asarray(Image.open(path)))
        else:
            assert (again / path.name).read_bytes() == path.read_bytes()


@pytest.mark.usefixtures("sketched_plots")
def test_a_result_can_be_pickled_and_copied(result: tg.SampleResult, tmp_path: Path) -> None:
    folder = result.save(tmp_path / "run")
    read = tg.load_run(folder)
    copies = [pickle.loads(pickle.dumps(each)) for each in (result, read)] + [copy.deepcopy(read)]
    shutil.rmtree(folder)
    for k, again in enumerate(copies):
        for name, column in result.draws._asdict().items():
            np.testing.assert_array_equal(getattr(again.draws, name), column)
        np.testing.assert_array_equal(again.images, result.images)
        assert (again.record, repr(again)) == (result.record, repr(result))
        assert (again.save(tmp_path / str(k)) / "film.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("accept_rate", "high", "whose accept_rate is not a number"),
        ("prior_draws", -1, "whose prior_draws is out of range"),
        ("prior_draws", 0, "neither prior draws nor evidence"),
        ("evidence", [None, "x"], "whose evidence is not a number"),
        ("exact_starts", 1.5, "whose exact_starts is not an integer"),
        ("backend", {}, "whose backend is not text"),
        ("seed", "0", "whose seed is not an integer"),
        ("arguments", {"num_chains": 4}, "draws [4, 3] that do not match its schedule"),
        ("arguments", {"temperature": "hot"}, "expected a number above 0"),
        ("arguments", {"schedule": {"num_results": 4}}, "num_burnin_steps"),
        ("label", {"name": 3}, "whose label"),
        ("kernel", "nuts2", "whose kernel"),
    ],
)
def test_a_hostile_record_is_one_line(entry: str, value: Any, said: str, saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "run"))
    record = json.loads((folder / "run.json").read_text())
    record[entry] = record[entry] | value if entry == "arguments" else value
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(tg.UserError) as caught:
        tg.load_run(folder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    for folder in (tmp_path, tmp_path / "none", "a\0b", str(tmp_path / "\x1b[31m"), 3):
        with pytest.raises(tg.UserError, match=r"^(load_run: expected a run|folder: expected a path).*\.$") as caught:
            tg.load_run(folder)  # type: ignore[arg-type]
        assert "\x1b" not in str(caught.value)


@pytest.mark.usefixtures("sketched_plots")
def test_a_result_is_read_without_tensorflow_which_starts_quietly_later(result: tg.SampleResult, tmp_path: Path) -> None:
    result.save(tmp_path / "run")
    code = (
        "import os, sys, tfgradgen as tg; r = tg.load_run('run'); r.summary(), r.images, r.issues, repr(r); "
        "tg.MalaConfig, tg.UserError, tg.read_recipe; assert 'tensorflow' not in sys.modules; "
        "tg.ClassPosterior; import tensorflow as tf; tf.constant(0); os.write(2, b'kept')"
    )
    env = {"PYTHONPATH": str(Path(tg.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"kept")


def test_flags_are_arguments_in_python() -> None:
    from tfgradgen.cli.model_options import CLASSIFIER_FLAGS, GENERATOR_FLAGS

    for flag, name in (GENERATOR_FLAGS | CLASSIFIER_FLAGS).items():
        assert parameter(flag) == name
    for line, expected in {
        "use --jit=false": "use jit=False",
        "use --kernel=rejection (--kernel=map is none)": "use kernel='rejection' (kernel='map' is none)",
        "give --classifier_range=LOW,HIGH": "give image_range=LOW,HIGH",
        "raise --num_burnin_steps and --num_results": "raise num_burnin_steps and num_results",
        "give another --out or add --overwrite.": "give another out or add overwrite=True.",
        "pass --allow_unknown_ops, or add --out=FOLDER": "pass allow_unknown_ops=True, or add out=FOLDER",
        "for example --num_chains=1.": "for example num_chains=1.",
        "a--b, out/--x and 3 -- 4": "a--b, out/--x and 3 -- 4",
    }.items():
        assert as_python(line) == expected


def test_an_error_has_both_forms() -> None:
    with pytest.raises(tg.UserError) as caught:
        tg.Schedule(1, 2, 3)
    assert "so raise num_burnin_steps too" in str(caught.value)
    assert "so raise --num_burnin_steps too" in caught.value.command_text
    from tfgradgen.core.checks import fail

    error = fail("out", "a folder", "--seed", "give --out=NAME")
    assert str(error) == "out: expected a folder, got --seed; give out=NAME."
    assert error.command_text == "out: expected a folder, got --seed; give --out=NAME."
