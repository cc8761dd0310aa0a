"""The modules of tools/, which is no package: its scripts import one another by name."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

TOOLS = Path(__file__).resolve().parents[1] / "tools"


def tool(name: str) -> ModuleType:
    """tools/<name>.py, tools/train/<name>.py, or a library that only tools use."""
    for folder in (str(TOOLS / "train"), str(TOOLS)):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    return importlib.import_module(name)
