"""Makes an image of a report.html in Chromium, for a README.

    python -m tools.screenshot --page=out/goldfish-mala-0/report.html --out=tools/pictures/report.png

It needs `chromium` and playwright, as the browser tests do (see tfgradgen/viewing/README.md).
"""

import io
import shutil
from pathlib import Path

import fire
from PIL import Image

COLORS = 256


def main(page, out, width=1000, height=1260, scheme="light"):
    """Write the upper `width` x `height` pixels of `page` to `out`, in the `scheme` light or dark."""
    from playwright.sync_api import sync_playwright

    from tfgradgen.io.images import save_png

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, offline=True)
        tab = context.new_page()
        tab.goto(Path(page).resolve().as_uri())
        image = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
        browser.close()
    save_png(Path(out), image.quantize(COLORS))  # a third of the size


if __name__ == "__main__":
    fire.Fire(main)
