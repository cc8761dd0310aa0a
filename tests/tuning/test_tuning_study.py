"""The file of a search: its name, what is read from it, and files that are something else."""

import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.support.tuned import cell_of
from tfgradgen.core.checks import UserError
from tfgradgen.mcmc.recipe import default_recipe
from tfgradgen.tuning.search import COMPLETE, ELIMINATED, REJECTED, open_study, trials


def test_a_damaged_study_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"^resume .*study\.db: expected the study of a search, got .*file is not a database"):
        open_study(tmp_path / "study.db", {})


@pytest.mark.parametrize("name", ["t?1", "a#b", "50%20", "a b", "x?mode=memory", "{SCHEMA_VERSION}", "é;'", "file:x", "a\\b"])
def test_a_study_is_stored_under_its_exact_name(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    open_study(folder / "study.db", {"of": 1})
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [name, f"{name}/study.db"]
    assert open_study(folder / "study.db", {"of": 1}).user_attrs["identity"] == {"of": 1}


COMPLETE_ATTRS: dict[str, Any] = {
    "state": COMPLETE,
    "recipe": default_recipe("hmc").to_dict(),
    "cells": [cell_of(3.0)._asdict()],
}


@pytest.mark.parametrize(
    "changed",
    [
        *({"state": "new"}, {"state": 3}, {"given": "mine"}, {"recipe": {}}, {"recipe": {"kernel": "none"}}, {"recipe": "hmc"}),
        *({"cells": [{}]}, {"cells": {}}, {"cells": [3]}, {"cells": [cell_of(-1.0)._asdict()]}),
        *({"cells": [cell_of(3.0)._asdict() | change]} for change in ({"per_1000": "x"}, {"rhat": []}, {"trace": {}})),
        {"cells": [cell_of(3.0)._asdict() | {"issues": "x"}]},
        {"recipe": default_recipe("hmc").to_dict() | {"step_size": -1}},
    ],
)
def test_a_study_of_another_kind_is_one_line(changed: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    study = open_study(path, {"of": 1})
    trial = study.ask()
    for name, value in (COMPLETE_ATTRS | changed).items():
        trial.set_user_attr(name, value)
    with pytest.raises(UserError, match=r"^resume .+: expected the study of a search, got .+; choose another out\.$"):
        open_study(path, {"of": 1})


@pytest.mark.parametrize(("before", "state"), [("whole", COMPLETE), ("dropped", ELIMINATED), ("faulty", REJECTED)])
def test_a_study_of_an_older_version_is_read(before: str, state: str, tmp_path: Path) -> None:
    """In it, states and the list of issues have other names."""
    study = open_study(tmp_path / "study.db", {"of": 1})
    trial, cell = study.ask(), cell_of(3.0, "stuck")._asdict()
    cell["faults"] = cell.pop("issues")
    for name, value in (COMPLETE_ATTRS | {"state": before, "cells": [cell]}).items():
        trial.set_user_attr(name, value)
    (found,) = trials(open_study(tmp_path / "study.db", {"of": 1}))
    assert (found.state, found.issues) == (state, ["stuck"])


def test_a_file_that_is_not_a_study_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    optuna.create_study(storage=f"sqlite:///{path}", study_name="tune", directions=["maximize", "minimize"])
    with pytest.raises(UserError, match="expected the study of a search"):
        open_study(path, {})
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("create table studies (study_id text)")
    with pytest.raises(UserError, match="expected the study of a search"):
        open_study(path, {})
    path.write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match="expected the study of a search"):
        open_study(path, {})
