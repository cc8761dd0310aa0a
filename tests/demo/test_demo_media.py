"""The demo of sounds and of clips, in Chromium: sounds play by mouse and by keyboard, clips move, both can be had as files."""

import io
import urllib.error
import urllib.request
import wave
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from tests.support import standins_media
from tests.support.browsers import chromium

pytest.importorskip("starlette", reason="NO TEST OF THE DEMO: starlette is not installed: pip install 'tfgradgen[test]'")
pytest.importorskip("uvicorn", reason="NO TEST OF THE DEMO: uvicorn is not installed: pip install 'tfgradgen[test]'")

from tests.support.demos import demo, quiet_page

PAIRS = {"sounds": standins_media.spoken_pair, "clips": standins_media.action_pair}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium("THE DEMO OF SOUNDS AND CLIPS") as found:
        yield found


@pytest.fixture(scope="module", params=PAIRS)
def drawn(request: pytest.FixtureRequest, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    """What is drawn, and the page after a run of two chains."""
    folder = tmp_path_factory.mktemp("media")
    with demo(tmp_path_factory.mktemp("demo"), *PAIRS[request.param](folder)) as url, quiet_page(browser, url) as page:
        page.select_option("#kernel", "rejection")
        page.fill("#num_chains", "2")
        page.fill("#num_results", "1")
        page.click("#go")
        page.locator("#status", has_text="done").wait_for()
        yield request.param, page


def fetched(page: Any, chain: int) -> tuple[bytes, str]:
    """The file behind the link of a chain, and the name under which it is stored."""
    link = page.locator("#tiles li").nth(chain).locator("a")
    with urllib.request.urlopen(page.url + link.get_attribute("href"), timeout=60) as reply:
        return reply.read(), link.get_attribute("download")


def test_a_sound_plays_by_mouse_and_by_keyboard(drawn: tuple[str, Any]) -> None:
    what, page = drawn
    audios = page.locator("#tiles audio")
    if what != "sounds":
        assert not audios.first.is_visible()
        return
    heading = page.inner_text("header")
    assert "Sounds of a class" in heading
    assert page.locator("#tiles img").first.get_attribute("alt") == "chain 0, as a spectrogram"
    page.evaluate(
        """() => {
        window.heard = [];
        document.querySelectorAll("#tiles audio").forEach((audio, chain) => {
            audio.addEventListener("playing", () => window.heard.push(chain));
            audio.addEventListener("ended", () => window.heard.push(`${chain} ended`));
        });
    }"""
    )
    ended = "text => window.heard.includes(text)"
    page.evaluate("document.querySelectorAll('#tiles button').forEach(button => button.click())")  # before the first one loads
    page.wait_for_function(ended, arg="1 ended")
    assert page.evaluate("window.heard[0]") == 1
    assert not page.locator("#error").is_visible(), "a sound that gives way to the next one is no error"
    assert audios.nth(1).evaluate("audio => audio.duration") == pytest.approx(640 / 8000, abs=0.01)
    page.locator("#tiles button").nth(0).focus()
    page.keyboard.press("Enter")
    page.wait_for_function(ended, arg="0 ended")
    page.evaluate("window.heard = []")
    page.keyboard.press("Space")
    page.wait_for_function(ended, arg="0 ended")  # again, from its start
    with wave.open(io.BytesIO(fetched(page, 1)[0])) as sound:
        assert (sound.getframerate(), sound.getnframes()) == (8000, 640)
    assert fetched(page, 1)[1] == "sound-1.wav"


def test_a_clip_moves(drawn: tuple[str, Any]) -> None:
    what, page = drawn
    image = page.locator("#tiles img").first
    content, name = fetched(page, 0)
    if what != "clips":
        assert image.get_attribute("src").startswith("data:image/png"), "a spectrogram stands still"
        return
    assert "Clips of a class" in page.inner_text("header")
    assert name == "clip-0.gif"
    with Image.open(io.BytesIO(content)) as clip:
        assert clip.n_frames == 4
    count = image.evaluate(
        """async image => {
        const reply = await fetch(image.src);
        const decoder = new ImageDecoder({data: await reply.arrayBuffer(), type: "image/gif"});
        await decoder.tracks.ready;
        return decoder.tracks.selectedTrack.frameCount;
    }"""
    )
    assert count == 4
    seen = {image.screenshot() for _ in range(20)}
    assert len(seen) > 1, "what is seen changes with time"


def test_files_of_what_was_not_drawn_are_not_found(drawn: tuple[str, Any]) -> None:
    _, page = drawn
    own = page.locator("#tiles a").first.get_attribute("href")
    for path in (own.removesuffix("0") + "2", own + "x", own + "0" * 5000, own.replace(own.split("/")[1], "0" * 32)):
        with pytest.raises(urllib.error.HTTPError) as error, urllib.request.urlopen(page.url + path, timeout=60):
            pass
        assert error.value.code == 404
        error.value.close()
