"""The wheel is built offline and unpacked elsewhere, and finds its models."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tfgradgen.models.shipped import SHIPPED_MODELS


def test_a_wheel_carries_its_models_and_runs_in_an_empty_folder(root: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    # Build from a copy: a build leaves its own folder behind, whose stale files the next build would pack.
    parts = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "tfgradgen", "saved_models")
    source = tmp_path / "source"
    source.mkdir()
    for part in parts:
        copy = shutil.copytree if (root / part).is_dir() else shutil.copy
        copy(root / part, source / part)
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", str(tmp_path), str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("tfgradgen-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for model in SHIPPED_MODELS:
        for file in ("saved_model.pb", "model.json", "MODEL.md", "variables/variables.index"):
            assert f"tfgradgen/saved_models/{model}/{file}" in names
    assert {f"tfgradgen/saved_models/text/assets/{file}" for file in ("vocabulary.txt", "captions.txt")} <= set(names)
    assert "tfgradgen/saved_models/photographs/photographs.npz" in names
    for model in ("generator", "classifier", "judge"):
        for file in ("saved_model.pb", "model.json", "MODEL.md", "variables/variables.index"):
            assert f"tfgradgen/saved_models/speech/{model}/{file}" in names
    assert "tfgradgen/models/imagenet_labels.txt" in names
    viewing = [path.name for path in (root / "tfgradgen" / "viewing").iterdir() if path.suffix in (".j2", ".css", ".js")]
    assert {f"tfgradgen/viewing/{name}" for name in viewing} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "tools"))]
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    shown = subprocess.run(
        [sys.executable, "-m", "tfgradgen", "models"],
        check=True,
        capture_output=True,
        text=True,
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(site)},
    ).stdout
    for model in SHIPPED_MODELS:
        assert f"{model}: {site / 'tfgradgen' / 'saved_models' / model}" in shown
    assert not list(empty.iterdir())
