"""A demo that answers in a thread, as its command starts it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def demo(folder: Path, generator: Path, classifier: Path, **limits: Any) -> Iterator[str]:
    """The address of the page of a demo of two models, which keeps its files in `folder`."""
    from tfgradgen.cli.demo import bind, url_of
    from tfgradgen.cli.demo_options import parse_demo
    from tfgradgen.cli.load import load_models
    from tfgradgen.demo.requests import Limits
    from tfgradgen.demo.server import DemoServer
    from tfgradgen.demo.work import Studio

    options = parse_demo({"port": 0, "generator": str(generator), "classifier": str(classifier)})
    listener, loaded = bind(options), load_models(options.models)
    studio = Studio(loaded, options.models.to_dict(), Limits(**limits), folder)
    server = DemoServer(listener, True, studio, [label.name for label in loaded.classifiers[0].labels])
    server.start()
    yield url_of(listener)
    server.close(10)


@contextmanager
def quiet_page(browser: Any, url: str) -> Iterator[Any]:
    """The page at `url`, which may complain of nothing and load nothing from elsewhere during the block."""
    page, said, asked = browser.new_page(), [], []
    page.set_default_timeout(120_000)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    yield page
    assert said == []
    assert all(each.startswith((url, "data:")) for each in asked)
    page.close()
