"""The modules of tools/, which is no package: its scripts import one another by name."""

import importlib
import sys
from pathlib import Path
from types import ModuleType


def tool(name: str) -> ModuleType:
    """tools/<name>.py, or a library that only tools use."""
    folder = str(Path(__file__).resolve().parents[1] / "tools")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)
