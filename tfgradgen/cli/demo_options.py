"""The flags of `demo`, parsed and checked."""

import importlib
from dataclasses import dataclass
from typing import Any

from tfgradgen.cli.flags import check_flags, flags_of, read_flags
from tfgradgen.cli.model_options import MODEL_FLAGS, ModelOptions, parse_models
from tfgradgen.cli.serve_options import parse_address
from tfgradgen.core.checks import fail
from tfgradgen.core.settings import switch, text, whole

PACKAGES = ("starlette", "uvicorn")


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """The options of `demo`. Fields without a line here are described by their help.

    Attributes:
      models: The models.
    """

    host: str = text(
        "127.0.0.1",
        help="IP address to listen on. By default only this machine can use it; 0.0.0.0 lets the network, without a password",
    )
    port: int = whole(8600, low=0, high=65535, help="port to listen on; 0 for any free one")
    max_chains: int = whole(64, low=1, high=64, help="most chains that the page may ask for")
    max_draws: int = whole(500, low=1, high=5000, help="most draws of each chain that the page may ask for")
    opens: bool = switch(flag="open", help="open the page in a browser")
    models: ModelOptions


def parse_demo(flags: dict[str, Any]) -> DemoOptions:
    """Return the options that the flags of `demo` give.

    Raises:
      UserError: A flag is invalid, or a package that the demo needs is missing.
    """
    check_flags("demo", flags, (*flags_of(DemoOptions), *MODEL_FLAGS))
    own = read_flags(DemoOptions, flags)
    own["host"] = parse_address(own["host"])
    options = DemoOptions(**own, models=parse_models({flag: flags[flag] for flag in MODEL_FLAGS if flag in flags}))
    try:
        for name in PACKAGES:
            importlib.import_module(name)
    except ImportError as error:
        raise fail("demo", f"the packages {', '.join(PACKAGES)}", error, "pip install 'tfgradgen[demo]'") from error
    return options
