"""The architecture, checked in the source: floors, sizes, numbers of arguments, and a fast import."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tfgradgen

FLOORS = [
    {"core"},
    {"media"},
    {"io", "models"},
    {"posterior"},
    {"diagnostics"},
    {"mcmc", "viewing"},
    {"results"},
    {"engine"},
    {"api", "serving"},
    {"evaluation", "play", "tuning"},
    {"demo"},
    {"cli"},
    {"__init__", "__main__"},
]
FRONT_DOORS = ("sample", "load_generator", "load_classifier", "load_discriminator", "vary", "load_posterior")
PACKAGE = Path(tfgradgen.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = Path(__file__).parent


def floor_of(unit: str) -> int:
    return next(k for k, units in enumerate(FLOORS) if unit in units)


def unit_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(tree: ast.AST) -> set[str]:
    """Return the full names of all imports: for `from a import b`, both a and a.b."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def imported_units(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tfgradgen"):
            names |= {node.module} if node.module != "tfgradgen" else {f"tfgradgen.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("tfgradgen.")}
    return {name.split(".")[1] for name in names if "." in name}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    unit = unit_of(path)
    for other in imported_units(ast.parse(path.read_text())) - {unit}:
        assert floor_of(other) < floor_of(unit), f"{unit} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_are_small(path: Path) -> None:
    """At most seven arguments, except in functions that users call by keyword, with the help of an editor that shows
    names and types."""
    source = path.read_text()
    assert len(source.splitlines()) <= 500
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            arguments = [a.arg for a in (*node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]
            assert len(arguments) <= 7 or (node.name in FRONT_DOORS and len(node.args.args) <= 2), (
                f"{node.name} takes {len(arguments)} arguments"
            )


def test_private_api_of_tensorflow_and_tfp_is_used_in_one_file() -> None:
    private = PACKAGE / "core" / "_tf_private.py"
    sources = [path for folder in (PACKAGE, TESTS, TESTS.parent / "tools") for path in folder.rglob("*.py") if path != private]
    offenders = [
        f"{path} imports {name}"
        for path in sources
        for name in imported_modules(ast.parse(path.read_text()))
        if name.startswith(("tensorflow.python", "tensorflow_probability.python"))
    ]
    assert offenders == []


def test_functions_of_models_are_compiled_in_one_way() -> None:
    """By `compile_fn`, which says why. A function that is only traced, for its graph or an export, is not counted."""
    traced = re.compile(r"tf\.function\((?!.*get_concrete_function)")
    own = ("backend.py", "module.py", "surrogate_net.py")  # of `compile_fn`, of an export, and of networks of our own
    sources = [path for path in PACKAGE.rglob("*.py") if path.name not in own]
    lines = [f"{path.name}: {line}" for path in sources for line in path.read_text().splitlines() if traced.search(line)]
    assert lines == []


def test_no_test_module_imports_another() -> None:
    """Code that tests share is in tests/support or in fixtures of conftest.py."""
    offenders = [
        f"{path.relative_to(TESTS)} imports {name}"
        for path in sorted(TESTS.rglob("*.py"))
        for name in imported_modules(ast.parse(path.read_text()))
        if any(part.startswith("test_") or part == "conftest" for part in name.split("."))
    ]
    assert offenders == []


def test_only_the_command_line_prints_or_exits() -> None:
    for path in FILES:
        if unit_of(path) not in ("cli", "__main__"):
            calls = [
                node.func.id
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            ]
            assert not {"print", "exit", "SystemExit"} & set(calls), path


def test_import_needs_neither_tensorflow_nor_files() -> None:
    code = "import sys, tfgradgen; assert 'tensorflow' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def test_public_names_resolve_and_are_documented() -> None:
    for name in tfgradgen.__all__:
        value = getattr(tfgradgen, name)
        assert name in ("SAMPLERS", "__version__") or inspect.getdoc(value), name
    assert {*dir(tfgradgen)} == {*tfgradgen.__all__, "__doc__"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tfgradgen.nothing


def test_checks_of_flags_and_reports_import_no_tensorflow() -> None:
    """Code that answers before a run starts, or reads a finished run, must not wait for TensorFlow."""
    names = ("commands", "compare_options", "tune_options", "export_options", "demo_options", "early", "diagnose")
    modules = [f"tfgradgen.cli.{name}" for name in names]
    code = f"import sys, {', '.join(modules)}; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
