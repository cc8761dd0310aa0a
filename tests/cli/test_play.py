"""The commands show, vary, morph and film: what they write, print and refuse; --save_images and --open."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tfgradgen as tg
from tests.support.command import FAST_MALA, refused
from tests.support.pages import Parsed
from tfgradgen.cli.commands import main
from tfgradgen.cli.play_options import play_flags
from tfgradgen.results.again import again

RUN = "out/goldfish-mala-0"


@pytest.fixture
def run(toy_flags: list[str], quick_runs: None, capsys: pytest.CaptureFixture[str]) -> str:
    main(["sample", "--label=goldfish", *FAST_MALA, *toy_flags])
    capsys.readouterr()
    return RUN


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the addresses that a browser was asked to open."""
    found: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: found.append(address) or True)
    return found


def edited(folder: str, **arguments: Any) -> None:
    """Change arguments in the record of a run, as an attacker could."""
    path = Path(folder, "run.json")
    record = json.loads(path.read_text())
    record["arguments"] |= arguments
    path.write_text(json.dumps(record))


def files() -> list[str]:
    return sorted(path.name for path in Path("out").iterdir())


def test_show_writes_one_image_and_says_where(run: str, capsys: pytest.CaptureFixture[str], opened: list[str]) -> None:
    main(["show", run, "--chain=2", "--scale=4", "--open"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("image    chain 2 of goldfish, the last draw: p(class) 0.")
    assert lines[-1] == f"wrote    {run}-chain2.png, and what reproduces it in goldfish-mala-0-chain2.png.json"
    result = tg.load_run(run)
    with Image.open(f"{run}-chain2.png") as image:
        assert image.size == (32, 32)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(tg.show(result, 2, scale=4)))
    np.testing.assert_array_equal(np.asarray(tg.show(result, 2, scale=1)), result.images[2])
    record = json.loads(Path(f"{run}-chain2.png.json").read_text())
    assert (record["run"], record["chain"], record["label"], record["scale"]) == (run, 2, "goldfish", 4)
    np.testing.assert_array_equal(np.float32(record["z"]), result.z[-1, 2])
    assert opened == [Path(f"{run}-chain2.png").resolve().as_uri()]


def test_show_without_a_chain_shows_all_images_best_first(
    run: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["show", run])
    assert capsys.readouterr().out.startswith("images   3 of goldfish, best first: the last draws")
    result = tg.load_run(run)
    with Image.open(f"{run}-best.png") as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(result.grid(best_first=True)))
    shown: list[Any] = []
    monkeypatch.setattr("tfgradgen.results.files.make_grid", lambda images, captions, **_: shown.append((images, captions)))
    result.grid(best_first=True)
    ((images, captions),) = shown
    order = sorted(range(3), key=lambda k: -result.class_prob[-1, k])
    np.testing.assert_array_equal(images, result.images[order])
    assert captions == [f"chain {k}, p {result.class_prob[-1, k]:.2f}" for k in order]


def test_class_names_elsewhere_are_read_only_if_the_user_names_them(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = Path("names.txt")
    names.write_text("goldfish\nking_penguin\nalp\n")
    edited(run, classifier_labels=str(names.resolve()))
    command = ["vary", run, "--chain=0", "--num_images=1", "--num_steps=1"]
    said = refused(command, capsys)
    assert "run: expected class names in the folder of the run or of its classifier, got " in said
    main([*command, f"--classifier_labels={names}"])
    shutil.copy(names, run)
    edited(run, classifier_labels=f"{run}/names.txt")
    main([*command, "--seed=1"])


def test_vary_writes_a_run_that_its_record_makes_again(run: str, capsys: pytest.CaptureFixture[str], opened: list[str]) -> None:
    main(["vary", run, "--chain=1", "--amount=0.2", "--num_images=2", "--num_steps=3", "--seed=5", "--open"])
    folder = f"{run}-chain1-vary-5"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"ran      2 images near chain 1 of {run}: amount 0.2 in 3 steps, acceptance ")
    assert lines[-1].startswith(f"wrote    {folder}: report.html (open it in a browser), grid.png")
    assert "warning  means: all chains start at one draw, so do not average over them" in "\n".join(lines)
    assert opened == [Path(folder, "report.html").resolve().as_uri()]
    found = tg.load_run(folder)
    np.testing.assert_array_equal(found.z, tg.vary(tg.load_run(run), 1, amount=0.2, num_images=2, num_steps=3, seed=5).z)
    page = Parsed(Path(folder, "report.html").read_text())
    command = f"python -m tfgradgen vary --run={run} --chain=1 --amount=0.2 --num_images=2 --num_steps=3 --seed=5"
    assert page.text_of("pre") == command
    main([*command.split()[3:], "--out=again"])
    np.testing.assert_array_equal(tg.load_run("again").z, found.z)
    main(["vary", folder, "--chain=0", "--num_images=1", "--num_steps=1"])  # a run like any other
    assert tg.load_run(f"{folder}-chain0-vary-0").record["varied"]["run"] == folder


def test_vary_with_moved_models_says_so_in_the_command_that_makes_it_again(run: str, toy_pair: tuple[Path, Path]) -> None:
    shutil.copytree(toy_pair[0], "moved")
    given = ["--generator=moved", "--allow_unknown_ops", "--amount=0.123456789"]
    main(["vary", run, "--chain=1", "--num_images=1", "--num_steps=1", *given])
    found = again(tg.load_run(f"{run}-chain1-vary-0").record)
    assert "--amount=0.123456789 " in found.command
    assert found.command.endswith("--generator=moved --allow_unknown_ops=true")
    assert "only if you trust them" in found.note


def test_vary_from_python_with_moved_models_says_so_too(run: str, toy_pair: tuple[Path, Path]) -> None:
    shutil.copytree(toy_pair[0], "moved")
    source = tg.load_run(run)
    posterior = tg.load_posterior(source, generator="moved")
    found = [tg.vary(source, 1, num_images=1, num_steps=1, posterior=each).record for each in (posterior, None)]
    assert [record["arguments"]["generator"] for record in found] == ["moved", str(toy_pair[0])]
    assert [record["varied"].get("models") for record in found] == [{"generator": "moved"}, None]
    assert again(found[0]).command.endswith(" --generator=moved")
    assert "--generator" not in again(found[1]).command


def test_the_chain_comes_first_in_the_help() -> None:
    for command in ("show", "vary", "film"):
        assert [*play_flags(command)][:2] == ["run", "chain"]


def test_morph_and_film_write_a_film(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["morph", run, "0", "2", "--frames=5", "--scale=2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("path     chain 0 to chain 2: least p(class) 0.")
    assert lines[-1].startswith(f"wrote    {run}-morph-0-2.gif, and what reproduces it in ")
    main(["film", run, "--chain=1", "--out=out/x.webp", "--fps=20"])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "film     chain 1, 9 images from start to draw 4 of 4",
        "wrote    out/x.webp, and what reproduces it in x.webp.json",
    ]
    with Image.open(f"{run}-morph-0-2.gif") as path, Image.open("out/x.webp") as film:
        assert path.n_frames <= 5
        assert film.n_frames <= 9
    record = json.loads(Path("out/x.webp.json").read_text())
    assert (record["command"], record["run"], record["chain"]) == ("film", run, 1)
    assert (record["points"][0], record["points"][4], len(record["class_prob"])) == ("start", "burn-in 4 of 4", 9)


@pytest.mark.parametrize("words", [["show", "--chain=0"], ["film", "--chain=0", "--burnin=false"], ["vary", "--chain=0"]])
def test_nothing_is_replaced_unless_asked(words: list[str], run: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = [words[0], run, *words[1:], *(["--num_images=1", "--num_steps=1"] if words[0] == "vary" else [])]
    main(command)
    capsys.readouterr()
    before = files()
    assert "which exists; choose another --out or add --overwrite" in refused(command, capsys)
    main([*command, "--overwrite"])
    assert files() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show"], "run: expected the folder of a run, got none; give it, for example"),
        (["show", "nowhere", "--chain=1"], "show: expected a run, got no run at nowhere (no such folder)"),
        (["film", RUN], "chain: expected the number of a chain, got none; give --chain=N"),
        (["show", RUN, "--scale=2"], "scale: expected --chain=N with it, got no chain"),
        (["show", RUN, "--chain=3"], "chain: expected an integer in 0..2, got 3"),
        (["show", RUN, "--chain=x"], "chain: expected an integer in 0..4095, got 'x'"),
        (["show", RUN, "--chain=1", "--scale=0"], "scale: expected an integer in 1..64, got 0"),
        (["show", RUN, "--chain=1", "--out=x.jpg"], "out: expected a file that ends in .png, got x.jpg"),
        (["show", RUN, "--chian=1"], "unknown flag --chian; did you mean --chain?"),
        (["show", RUN, "--chain=1", "--seed=1"], "unknown flag --seed"),
        (["vary", RUN, "--chain=1", "--amount=2"], "amount: expected a number of at least 0.001 and at most 1, got 2"),
        (["vary", RUN, "--chain=1", "--out=out"], "out: expected a new folder, got out, which exists"),
        (["morph", RUN, "1"], "last: expected the number of a chain, got none"),
        (["morph", RUN, "1", "1"], "last: expected another chain than the first, got 1"),
        (["morph", RUN, "0", "1", "--out=x.png"], "out: expected a file that ends in .gif, .webp, .mp4, got x.png"),
        (["film", RUN, "--chain=1", "--fps=99"], "fps: expected a number of at least 0.1 and at most 50, got 99"),
        (["film", RUN, "--chain=1", "--fps=1e-9"], "fps: expected a number of at least 0.1"),
        (["film", RUN, "--chain=1", "--burnin=maybe"], "burnin: expected one of true, false, got 'maybe'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    words: list[str], message: str, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(words, capsys)
    assert files() == ["goldfish-mala-0"]
    assert sorted(path.name for path in Path().iterdir()) == ["out"]


@pytest.mark.parametrize("words", [["vary", RUN, "--chain=0"], ["film", RUN, "--chain=0"]])
def test_other_models_than_those_of_the_run_are_refused(
    words: list[str], run: str, toy_pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(toy_pair[0], "other")
    card = json.loads(Path("other/model.json").read_text())
    Path("other/model.json").write_text(json.dumps(card | {"image_range": [0, 1]}))
    line = refused([*words, "--generator=other"], capsys)
    assert "run: expected the generator of the run, with image_range [-1.0, 1.0], got [0.0, 1.0]; give --generator with" in line
    with Path("other/saved_model.pb").open("ab") as stream:
        stream.write(b"\x92\x03\x00")  # an unknown field, so that the model loads as before
    Path("other/model.json").write_text(json.dumps(card))
    assert "run: expected the generator of the run, with sha256 '" in refused([*words, "--generator=other"], capsys)
    assert files() == ["goldfish-mala-0"]


def test_a_run_decides_neither_what_is_downloaded_nor_what_is_trusted(
    run: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    edited(run, allow_unknown_ops=True)
    trusted: list[bool] = []
    from tfgradgen.play import source

    load = source.load_generator
    monkeypatch.setattr(
        source, "load_generator", lambda *args, **given: trusted.append(given["allow_unknown_ops"]) or load(*args, **given)
    )
    main(["film", run, "--chain=0", "--burnin=false"])
    main(["film", run, "--chain=0", "--burnin=false", "--allow_unknown_ops", "--overwrite"])
    assert trusted == [False, True]
    capsys.readouterr()
    for place in ("https://tfhub.dev/deepmind/biggan-128/2", "/nowhere/generator", "\0", "x\x1b[31m"):
        edited(run, generator=place)
        line = refused(["vary", run, "--chain=0"], capsys)
        assert "run: expected the generator of the run on this machine, got " in line
        assert "\x1b" not in line
    assert len(trusted) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"generator_range": "x"},
        {"max_batch": "many"},
        {"discriminator_weight": [1]},
        {"init": "nowhere"},
        {"num_chains": 10**9},
        {"gradient_precision": "zz"},
        {"temperature": 1e300},
        {"schedule": {"num_results": 4, "num_burnin_steps": 10**9, "num_adaptation_steps": 0}},
        {"classifier": None},
        {"classifier": ",,,"},
    ],
)
def test_a_hostile_record_is_one_line(wrong: dict[str, Any], run: str, capsys: pytest.CaptureFixture[str]) -> None:
    edited(run, **wrong)
    assert "expected" in refused(["film", run, "--chain=0"], capsys)
    assert files() == ["goldfish-mala-0"]


def test_sample_writes_each_image_as_a_file_and_opens_the_report(
    toy_flags: list[str], quick_runs: None, capsys: pytest.CaptureFixture[str], opened: list[str]
) -> None:
    command = ["sample", "--label=goldfish", *FAST_MALA, *toy_flags]
    main([*command, "--save_images", "--open"])
    assert "image-*.png" in capsys.readouterr().out.splitlines()[-1]
    images = tg.load_run(RUN).images
    for k in range(3):
        np.testing.assert_array_equal(np.asarray(Image.open(f"{RUN}/image-{k}.png")), images[k])
    assert opened == [Path(RUN, "report.html").resolve().as_uri()]
    main([*command, "--seed=0", "--overwrite"])
    assert not list(Path(RUN).glob("image-*")), "those of the replaced run are gone"
    main([*command, "--save_images", "--resume"])  # the missing files are added to a finished run
    assert len(list(Path(RUN).glob("image-*.png"))) == 3
    saved = tg.load_run(RUN).save("copy", save_images=True)
    assert sorted(path.name for path in saved.glob("image-*.png")) == ["image-0.png", "image-1.png", "image-2.png"]


def test_several_labels_open_their_sheet_and_without_a_browser_it_is_said(
    toy_flags: list[str], quick_runs: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(asked.append(address)))
    main(["sample", "--label=goldfish,alp", *FAST_MALA, *toy_flags, "--open"])
    assert asked == [Path("out/goldfish+alp-mala-0/sheet.png").resolve().as_uri()]
    assert "no browser on this machine: open out/goldfish+alp-mala-0/sheet.png yourself" in capsys.readouterr().err


def test_a_label_of_a_batch_has_its_own_film(
    toy_flags: list[str], quick_runs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The noise of its chains belongs to the whole batch."""
    main(["sample", "--label=goldfish,alp", *FAST_MALA, *toy_flags])
    main(["film", "out/goldfish+alp-mala-0/alp", "--chain=2"])
    assert "film     chain 2, 9 images from start to draw 4 of 4" in capsys.readouterr().out
    assert "warning" not in json.loads(Path("out/goldfish+alp-mala-0/alp-chain2.gif.json").read_text())
