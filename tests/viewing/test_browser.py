"""report.html in Chromium. Without a browser these tests are skipped, unless REQUIRE_BROWSER=1 demands one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browsers import chromium
from tests.support.documents import a_comparison, a_search
from tfgradgen.diagnostics.issues import with_page
from tfgradgen.io.folders import REPORT
from tfgradgen.results.again import again
from tfgradgen.viewing.document import render_document


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium(REPORT) as found:
        yield found


def opened(browser: Any, file: Path) -> Iterator[Any]:
    """Open a page from disk without a network; nothing may be loaded and no error may occur."""
    context = browser.new_context(offline=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    yield page
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    context.close()


@pytest.fixture
def page(browser: Any, run: Path) -> Iterator[Any]:
    """Return the page of the run."""
    yield from opened(browser, run / REPORT)


@pytest.fixture(params=[a_comparison, a_search], ids=["compare", "tune"])
def document(browser: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Return the page of a comparison or of a search, with a warning."""
    file = tmp_path / REPORT
    file.write_text(render_document(request.param([with_page("models", "goldfish: a finding")])), encoding="utf-8")
    yield from opened(browser, file)


def details(page: Any) -> list[str]:
    return [str(text) for text in page.locator("#viewer .details dd").all_inner_texts()]


def record_of(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "run.json").read_text())
    return record


def test_every_image_loads(page: Any) -> None:
    assert page.title() == "goldfish, mala, seed 3"
    widths = page.eval_on_selector_all("main img", "images => images.map(image => image.naturalWidth)")
    assert len(widths) == 4
    assert min(widths) >= 8


def test_a_tile_is_enlarged_by_mouse(page: Any, run: Path) -> None:
    assert not page.locator("#viewer").is_visible()
    page.locator("#tiles > li > button").nth(1).click()
    assert page.locator("#viewer").is_visible()
    assert details(page) == [f"{record_of(run)['final_class_prob'][1]:.3f}", "1", "3", "3"]
    assert page.locator("#large").bounding_box()["width"] > page.locator("#tiles img").first.bounding_box()["width"]
    page.locator("#close").click()
    assert not page.locator("#viewer").is_visible()


def test_a_tile_is_enlarged_by_keyboard(page: Any) -> None:
    page.locator("input[value=chain]").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#viewer").is_visible()
    assert details(page)[1] == "0"
    page.keyboard.press("ArrowRight")
    assert details(page)[1] == "1"
    for key, chain in ("ArrowRight", "2"), ("ArrowRight", "2"), ("ArrowLeft", "1"):
        page.keyboard.press(key)
        assert details(page)[1] == chain, "also after the last one, whose button is disabled"
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    # Where one was. The page puts the focus there once it hears that the dialog is closed, a moment later.
    page.locator("[data-chain='1'] > button:focus").wait_for(timeout=5000)


def test_the_film_of_a_chain_runs_and_stops_at_a_frame(page: Any) -> None:
    page.locator("#tiles > li > button").nth(2).click()
    frames = page.locator("#frames button")
    assert frames.count() == 4
    page.evaluate(
        """() => {
        const draw = document.getElementById("draw");
        window.seen = [];
        new MutationObserver(() => window.seen.push(draw.textContent)).observe(draw, {childList: true});
    }"""
    )
    page.locator("#play").click()
    page.locator("#play", has_text="Play").wait_for()
    assert page.evaluate("window.seen") == ["0", "1", "2", "3"]
    frames.nth(0).press("Enter")
    assert details(page)[1:] == ["2", "0", "3"]
    assert page.locator("#large").get_attribute("src") == frames.nth(0).locator("img").get_attribute("src")


def test_tiles_are_sorted(page: Any, run: Path) -> None:
    probs = record_of(run)["final_class_prob"]
    order = "items => items.map(item => Number(item.dataset.chain))"
    page.locator("input[value=best]").check()
    assert page.eval_on_selector_all("#tiles > li", order) == sorted(range(3), key=lambda k: -probs[k])
    page.locator("input[value=chain]").check()
    assert page.eval_on_selector_all("#tiles > li", order) == [0, 1, 2]


def test_the_copied_command_is_that_of_the_record(page: Any, run: Path) -> None:
    page.locator(".command button").click()
    page.locator(".command [role=status]", has_text="Copied.").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == again(record_of(run)).command


def test_a_warning_leads_to_its_section(page: Any, run: Path) -> None:
    section = record_of(run)["warnings"][0]
    page.locator(f"a[href='#about-{section}']").first.click()
    assert page.evaluate("location.hash") == f"#about-{section}"
    assert page.locator(f"#about-{section}").is_visible()


def test_a_report_is_read_copied_and_scrolled_by_keyboard(document: Any) -> None:
    widths = document.eval_on_selector_all("main img", "images => images.map(image => image.naturalWidth)")
    assert set(widths) == {60}
    for k in range(document.locator(".command").count()):
        box = document.locator(".command").nth(k)
        box.locator("button").press("Enter")
        box.locator("[role=status]", has_text="Copied.").wait_for()
        assert document.evaluate("navigator.clipboard.readText()") == box.locator("pre").text_content()
    document.locator(".warning a").press("Enter")
    assert document.evaluate("location.hash") == "#about-models"
    assert document.locator("#about-models").is_visible()
    document.locator(".wide").first.focus()
    assert document.evaluate("document.activeElement.className") == "wide"


def test_a_report_fits_a_narrow_window(document: Any) -> None:
    """Only its tables are wider, and each scrolls by itself."""
    document.set_viewport_size({"width": 400, "height": 800})
    assert document.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes(scheme: str, page: Any) -> None:
    """The contrast between text and background is at least 4.5, as WCAG requires."""
    page.emulate_media(color_scheme=scheme)
    shown = """names => names.map(name => {
        const probe = document.body.appendChild(document.createElement("span"));
        probe.style.color = getComputedStyle(document.documentElement).getPropertyValue(name);
        const parts = getComputedStyle(probe).color.match(/\\d+/g).map(Number);
        probe.remove();
        return parts;
    })"""
    names = ["--page", "--card", "--ink", "--quiet", "--link", "--ok", "--warning"]
    found = {name: luminance(rgb) for name, rgb in zip(names, page.evaluate(shown, names), strict=True)}
    for ground in names[:2]:
        for name in names[2:]:
            low, high = sorted((found[ground], found[name]))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ground, name)
    assert (found["--page"] > 0.5) == (scheme == "light")


def luminance(rgb: list[int]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
