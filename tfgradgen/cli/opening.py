"""Opening what a command wrote, in the user's browser."""

import webbrowser
from pathlib import Path

from tfgradgen.cli.terminal import note
from tfgradgen.core.text import as_text


def open_file(path: Path) -> None:
    """Open a file in the browser of this machine; if there is none, say so. The command has done its work either way."""
    try:
        is_open = webbrowser.open(path.resolve().as_uri())
    except (webbrowser.Error, OSError, ValueError):
        is_open = False
    if not is_open:
        note(f"open     no browser on this machine: open {as_text(path)} yourself")
