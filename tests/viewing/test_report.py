"""report.html: its content, and that nothing in it comes from elsewhere or acts on its own."""

import base64
import hashlib
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tfgradgen as tg
from tests.support.pages import DATA, Parsed, check_names, pixels_of
from tests.support.records import a_record, some_draws
from tfgradgen.cli.arguments import evaluated
from tfgradgen.cli.options import parse_sample
from tfgradgen.core.contracts import Draws
from tfgradgen.diagnostics.issues import PAGES, PAGES_FILE
from tfgradgen.io.folders import REPORT
from tfgradgen.results.again import again
from tfgradgen.results.film import make_film
from tfgradgen.results.page import page_of
from tfgradgen.results.record import run_record
from tfgradgen.viewing.html import whole_flags
from tfgradgen.viewing.markdown import explanation
from tfgradgen.viewing.report import Page, render

HOSTILE = "</title></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'`{{ 7 * 7 }}\u202e\x1b[2J"


def parsed(folder: Path) -> Parsed:
    return Parsed((folder / REPORT).read_text(encoding="utf-8"))


def made_page(num_chains: int = 3, size: tuple[int, int, int] = (8, 8, 3), **changes: Any) -> Page:
    """Return a page of made-up draws, whose record has `changes`."""
    draws, rng = some_draws(num_chains=num_chains), np.random.default_rng(1)
    stats = {"num_gradients": 100, "num_forward": 5, "seconds": 1.5, "prior_draws": 8, "prior_class_prob": 0.1}
    planned = a_record() | changes
    planned["arguments"] = {"temperature": 1.0} | planned["arguments"] | {"num_chains": num_chains}
    record = run_record(planned, draws, {"prior_class_prob_error": 0.01, **stats})
    images = rng.integers(0, 256, (num_chains, *size), np.uint8)
    film = make_film(lambda z: rng.integers(0, 256, (len(z), *size), np.uint8), draws)
    return page_of(record, draws, images, film, Image.new("RGB", (4, 4)))


def test_no_line_ends_within_a_flag() -> None:
    flag = '<span class="flag">--{}</span>'
    assert whole_flags("raise --num_results to 5, or <b> - 1") == f"raise {flag.format('num_results')} to 5, or &lt;b&gt; - 1"
    assert whole_flags("take --kernel=rejection.") == f"take {flag.format('kernel=rejection')}."


def test_it_shows_the_whole_run(run: Path) -> None:
    page, result = parsed(run), tg.load_run(run)
    record = result.record
    assert page.text_of("h1") == "goldfish"
    tiles = [each for k in range(3) for each in page.all("img", alt=f"goldfish, last image of chain {k}")]
    assert len(tiles) == 3
    for tile, image in zip(tiles, result.images, strict=True):
        np.testing.assert_array_equal(pixels_of(tile.attributes["src"]), image)
    cells = [each for each in page.all("li") if "data-chain" in each.attributes]
    assert [each.attributes["data-chain"] for each in cells] == ["0", "1", "2"]
    assert [each.attributes["data-prob"] for each in cells] == [f"{p:.3f}" for p in record["final_class_prob"]]
    assert (page.text_of("dd", id="draw"), page.all("dd", id="draw")[0].attributes["data-last"]) == ("", "3")
    assert "seed 3" in page.text_of("title")
    (plots,) = page.all("img", **{"class": "plots"})
    assert plots.attributes["src"] == DATA + base64.b64encode((run / "plots.png").read_bytes()).decode()
    assert "Trace, rank and autocorrelation plots of 3 chains. p(class): R-hat " in plots.attributes["alt"]
    lines = result.summary().splitlines()
    assert ["".join(each.text) for each in page.all("dt")][: len(lines)][0] == "ran"
    assert "".join(page.all("dd")[0].text) == lines[0][9:]


def test_every_image_says_what_it_is_and_no_two_elements_share_a_name(run: Path) -> None:
    page = parsed(run)
    empty = [each for each in page.all("img") if not each.attributes["alt"]]
    assert [each.attributes.get("id") for each in empty] == ["large"], "a script fills it"
    check_names(page)


def test_the_film_of_a_chain_is_that_of_film_png(run: Path) -> None:
    page, result = parsed(run), tg.load_run(run)
    assert len(page.all("template")) == 3
    for chain in range(3):
        frames = [page.all("img", alt=f"chain {chain} at draw {draw}") for draw in range(4)]
        assert [len(each) for each in frames] == [1] * 4
        last = pixels_of(frames[3][0].attributes["src"])
        assert last.shape == (8, 8, 3)
        if result.draws.is_accepted[1:, chain].all():
            alike = np.corrcoef(last.ravel(), result.images[chain].ravel())[0, 1]
            assert alike > 0.95, "enlarged in the film and made smaller again"
    assert ("not moved" in page.text_of("main")) == (not result.draws.is_accepted[1:].all())


def test_every_warning_leads_to_what_it_means(run: Path) -> None:
    page, record = parsed(run), tg.load_run(run).record
    assert record["problems"], "so few draws have some"
    lines = [" ".join("".join(each.text).split()) for each in page.all("li", **{"class": "warning"})]
    assert len(lines) == len(record["problems"])
    for line, problem, section in zip(lines, record["problems"], record["warnings"], strict=True):
        start = problem.split(" (")[0].split(":")[0]
        assert line.startswith(f"warning {start}")
        assert PAGES_FILE not in line
        assert page.all("a", href=f"#about-{section}")
        assert page.all("section", id=f"about-{section}")
    assert len(page.all("li", **{"class": "ok"})) == len(record["passed"])


@pytest.mark.parametrize("section", PAGES)
def test_every_kind_of_warning_is_explained_in_plain_text(section: str) -> None:
    paragraphs = explanation(section)
    text = " ".join(part for paragraph in paragraphs for part, *_ in paragraph)
    assert len(text) > 80
    assert not re.search(r"\*\*|\]\(|`|^#", text), "marks of Markdown that nothing renders"


def test_nothing_comes_from_elsewhere(run: Path) -> None:
    source = (run / REPORT).read_text(encoding="utf-8")
    page = Parsed(source)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", re.sub(r"data:image/png;base64,[\w+/=]+", "", source), re.I)
    for element in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in element.attributes)
        if "src" in element.attributes:
            assert element.attributes["src"].startswith(DATA)
    assert page.all("link")[0].attributes["href"] == "data:,"
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    rules = dict(rule.strip().split(" ", 1) for rule in policy.attributes["content"].split(";"))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    for tag in ("style", "script"):
        ((element,), digest) = page.all(tag), rules[f"{tag}-src"]
        assert digest == f"'sha256-{base64.b64encode(hashlib.sha256(''.join(element.text).encode()).digest()).decode()}'"
    assert len(source) < 4_000_000


def test_hostile_text_stays_text() -> None:
    """Class names, warnings, versions and settings may come from files of others."""
    record = a_record()
    arguments = record["arguments"] | {
        **{"label": HOSTILE, "generator": HOSTILE, "classifier": HOSTILE, "latent_dim": {"a": HOSTILE}},
        HOSTILE: HOSTILE,
    }
    page = made_page(
        label={"index": 0, "name": HOSTILE},
        arguments=arguments,
        backend=HOSTILE,
        versions={"tfgradgen": HOSTILE},
        classifier=record["classifier"] | {"doubts": [HOSTILE]},
    )
    source = render(page)
    found, usual = Parsed(source), Parsed(render(made_page(classifier=record["classifier"] | {"doubts": ["a finding"]})))
    shape = lambda page: [(each.tag, sorted(each.attributes)) for each in page.elements]  # noqa: E731
    assert [each for each in shape(found) if each[0] in ("script", "title", "h1", "section")] == [
        each for each in shape(usual) if each[0] in ("script", "title", "h1", "section")
    ]
    assert len(found.all("script")) == 1
    assert not found.all("img", src="x")
    for text in (found.text_of("h1"), found.text_of("title"), found.text_of("footer")):
        assert "<script>alert(1)</script>" in text
        assert "{{ 7 * 7 }}" in text
        assert "\\u202e\\x1b" in text
    assert "\u202e" not in source
    assert "\x1b" not in source
    assert not found.all("pre"), "hidden characters cannot be copied"


def test_hostile_words_of_the_command_are_quoted() -> None:
    name = HOSTILE.partition("\u202e")[0]
    record = a_record() | {"label": {"index": 0, "name": name}}
    record["arguments"] = record["arguments"] | {"label": name, "generator": name, "classifier": name, name: name}
    words = shlex.split(again(record).command)
    counts = ["--num_results", "--num_burnin_steps", "--num_adaptation_steps", "--num_chains"]
    named = [word.partition("=")[0] for word in words[4:]]
    assert named == ["--label", "--kernel", "--seed", *counts, "--generator", "--classifier"]
    assert words[4] == f"--label={name}"


def test_the_same_run_gives_the_same_bits(run: Path, tmp_path: Path) -> None:
    result = tg.load_run(run)
    first, second = (result.save(tmp_path / name) / REPORT for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes() == (run / REPORT).read_bytes()


def test_a_new_run_replaces_the_page(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / REPORT).write_text("old")
    result = tg.load_run(folder)
    with pytest.raises(tg.UserError, match="add overwrite"):
        result.save(folder)
    assert (folder / REPORT).read_text() == "old"
    result.save(folder, overwrite=True)
    assert (folder / REPORT).read_bytes() == (run / REPORT).read_bytes()


def test_a_film_of_another_run_is_not_shown(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    Image.new("RGB", (50, 50)).save(folder / "film.png")
    page = parsed(tg.load_run(folder).save(tmp_path / "other"))
    assert not page.all("template")
    assert "film" not in page.text_of("noscript").replace("see films", "")
    assert "chain's film" not in page.text_of("main")


def test_many_large_images_are_made_smaller() -> None:
    page = made_page(300, (128, 128, 3))
    source = render(page)
    assert len(source) < 8_000_000, "noise, which no PNG makes smaller"
    found = Parsed(source)
    assert "the first 16 chains have one" in found.text_of("main")
    assert len(found.all("template")) == 16
    assert pixels_of(found.all("img")[0].attributes["src"]).shape == (58, 58, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_p_that_is_not_finite_is_sorted_last(channels: int) -> None:
    page = made_page(size=(8, 16, channels))
    first = page.tiles[0]._replace(prob=float("nan"))
    (cell, *_) = [
        each
        for each in Parsed(render(page._replace(tiles=[first, *page.tiles[1:]]))).all("li")
        if "data-rank" in each.attributes
    ]
    assert (cell.attributes["data-rank"], cell.attributes["data-prob"]) == ("-1", "unknown")


def flags_of(command: str) -> dict[str, Any]:
    words = shlex.split(command)
    assert words[:4] == ["python", "-m", "tfgradgen", "sample"]
    return {name: evaluated(value) for name, _, value in (word.removeprefix("--").partition("=") for word in words[4:])}


def test_the_command_is_that_of_the_record(run: Path) -> None:
    page, record = parsed(run), json.loads((run / "run.json").read_text())
    command = page.text_of("pre")
    assert command == again(record).command
    made = finite_dict(parse_sample(flags_of(command)).to_dict())
    assert {name for name, value in record["arguments"].items() if made[name] != value} == {"out"}


def finite_dict(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize(
    "flags",
    [
        {"label": "goldfish"},
        {"label": "a b & !'c'", "kernel": "rejection", "num_chains": 4, "temperature": 0.5},
        {"label": "alp", "kernel": "hmc", "num_leapfrog_steps": 5, "step_size": 0.125, "num_burnin_steps": 7, "jit": False},
        {"label": "pizza", "kernel": "mala", "adaptation": "simple", "num_adaptation_steps": 0, "init": "prior"},
        {"label": 3, "kernel": "smc", "num_results": 30, "netcdf": False, "max_batch": 8, "allow_unknown_ops": True},
        {"label": "x", "generator": "g h", "generator_range": (0, 1), "classifier": "c", "classifier_size": 32},
    ],
)
def test_the_command_gives_the_arguments_of_the_run(flags: dict[str, Any]) -> None:
    options = parse_sample(flags)
    arguments = finite_dict(options.to_dict())
    label = {"index": 0, "name": str(flags["label"])}
    record = {"arguments": arguments, "label": label, "kernel": options.kernel, "seed": options.run.seed}
    assert finite_dict(parse_sample(flags_of(again(record).command)).to_dict()) == arguments


@pytest.mark.parametrize(
    ("asked", "batch", "label"),
    [
        (["goldfish", "alp"], None, "alp"),  # the other label ran with another kernel
        ("all", None, "alp"),
        ("all", {"name": ["alp", "pizza"]}, "alp,pizza"),
    ],
)
def test_the_command_draws_what_the_run_drew(asked: Any, batch: Any, label: str) -> None:
    record = a_record() | {"label": {"index": 0, "name": "alp"}}
    record["arguments"] = record["arguments"] | {"label": asked, "generator": "a", "classifier": "b"}
    if batch:
        record["batch"] = batch
    assert f"--label={label} " in again(record).command


@pytest.mark.parametrize(
    ("alone", "index", "is_class", "label"),
    [
        ("alp", 0, True, "alp"),
        ("(alp)", 1, False, "'(alp)'"),
        (None, 0, True, "alp"),  # None: of a run of an earlier version
        (None, 1, True, "alp"),
        (None, 1, False, "'(alp)'"),
    ],
)
def test_the_command_of_one_of_several_labels_draws_this_one(alone: Any, index: int, is_class: bool, label: str) -> None:
    record = a_record() | {"label": {"index": index, "name": "alp", "wnid": ""}}
    record |= {"alone": alone} if alone else {}
    record["arguments"] = record["arguments"] | {"label": "alp,pizza & !alp", "generator": "a", "classifier": "b"}
    record["classifier"] = record["classifier"] | ({"signature": "__call__"} if is_class else {})
    assert f"--label={label} " in again(record).command


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"generator": "models/g"}, "relative paths"),
        ({"allow_unknown_ops": True}, "only if you trust them"),
    ],
)
def test_the_note_says_what_to_know(changes: dict[str, Any], part: str) -> None:
    record = a_record()
    known = {"generator": "a", "classifier": "b"}
    notes = [again(record | {"arguments": record["arguments"] | known | more}).note for more in ({}, changes)]
    assert [part in note for note in notes] == [False, True]


def test_flags_of_no_command_are_left_out() -> None:
    record = a_record()
    record["arguments"] = record["arguments"] | {"generator": "a", "classifier": "b", "trust": False, "hub": 0}
    assert not {"trust", "hub"} & flags_of(again(record).command).keys()


@pytest.mark.parametrize("name", ["x\u200dy", "x" * 10_000])
def test_a_name_that_cannot_be_shown_has_no_command(name: str) -> None:
    record = a_record() | {"label": {"index": 0, "name": name}}
    record["arguments"] = record["arguments"] | {"label": name, "generator": "a", "classifier": "b"}
    assert again(record).command == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"arguments": {"generator": ""}}, "its models were given as Python objects"),
        ({"label": {"index": [0, 1], "name": "a, b"}}, "each chain has a label of its own"),
        ({"arguments": {"init": "given", "generator": "a", "classifier": "b"}}, "a latent point that was given in Python"),
    ],
)
def test_a_run_without_a_command_says_why(changes: dict[str, Any], why: str) -> None:
    record = a_record()
    arguments = record["arguments"] | {"generator": "a", "classifier": "b"} | changes.get("arguments", {})
    found = again(record | changes | {"arguments": arguments})
    assert found.command == ""
    assert why in found.note


def test_draws_of_one_kind_have_one_film() -> None:
    """A film is cut at the places where it was drawn, even if there are fewer draws than columns."""
    draws = Draws(*(column[:1] for column in some_draws()))
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    planned = a_record()
    planned["arguments"] |= {
        "temperature": 1.0,
        "schedule": {"num_results": 1, "num_burnin_steps": 0, "num_adaptation_steps": 0},
    }
    stats = {"num_gradients": 1, "num_forward": 1, "seconds": 1.0, "prior_draws": 8}
    record = run_record(planned, draws, stats)
    page = page_of(record, draws, images, make_film(lambda z: images, draws), Image.new("RGB", (4, 4)))
    for tile, image in zip(page.tiles, images, strict=True):
        (frame,) = tile.film
        assert (frame.draw, frame.is_still) == (0, False)
        assert np.corrcoef(frame.image.ravel(), image.ravel())[0, 1] > 0.9
