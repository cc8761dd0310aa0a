"""Import of the modules of tools/."""

import importlib
from pathlib import Path
from types import ModuleType

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def tool(name: str) -> ModuleType:
    """Return the module `name` of tools/, in whichever folder it is, or a library that only tools use."""
    (*found,) = TOOLS.rglob(f"{name}.py")
    return importlib.import_module(".".join(found[0].relative_to(TOOLS.parent).with_suffix("").parts) if found else name)
