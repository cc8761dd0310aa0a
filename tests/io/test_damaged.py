"""TF1 models whose files are damaged or contradictory are refused in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.hostile import edit, save_v1
from tfgradgen.core.checks import UserError
from tfgradgen.models.loading.saved_model import open_saved_model


def in_files(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """Apply `change` to each file that holds the variables."""

    def damage(folder: Path) -> None:
        for path in (folder / "variables").iterdir():
            change(path)

    return damage


def in_proto(change: Callable[[Any], None]) -> Callable[[Path], None]:
    return lambda folder: edit(folder, lambda proto: change(proto.meta_graphs[0]))


def names_no_tensor(meta: Any) -> None:
    meta.signature_def["default"].outputs["default"].name = "nothing:0"


def names_a_node(meta: Any) -> None:
    meta.signature_def["default"].inputs["z"].name = "z"


def is_sparse(meta: Any) -> None:
    meta.signature_def["default"].inputs["z"].coo_sparse.values_tensor_name = "z:0"


def has_dtype(number: int) -> Callable[[Any], None]:
    def change(meta: Any) -> None:
        meta.signature_def["default"].inputs["z"].dtype = number

    return change


def has_a_loose_end(meta: Any) -> None:
    meta.graph_def.node[0].input.append("missing")


def restores_by_nothing(meta: Any) -> None:
    meta.saver_def.restore_op_name = "nothing"


@pytest.mark.parametrize(
    "damage",
    [
        in_files(lambda path: path.unlink()),
        in_files(lambda path: path.write_bytes(b"no tensors")),
        in_files(lambda path: path.write_bytes(path.read_bytes()[:20]) if ".data" in path.name else None),
        in_proto(names_no_tensor),
        in_proto(names_a_node),
        in_proto(is_sparse),
        in_proto(has_dtype(0)),
        in_proto(has_dtype(999)),
        in_proto(has_a_loose_end),
        in_proto(restores_by_nothing),
    ],
    ids=["none", "garbage", "cut", "tensor", "node", "sparse", "dtype 0", "dtype 999", "loose end", "restore"],
)
def test_a_damaged_tf1_model_is_refused_in_one_line(damage: Callable[[Path], None], tmp_path: Path) -> None:
    folder = save_v1(tmp_path / "model")
    open_saved_model(folder).function("default")
    damage(folder)
    with pytest.raises(UserError, match=r"expected a SavedModel that loads, got (?!Graph exec).+; export it again\.") as error:
        open_saved_model(folder).function("default")
    assert "\n" not in str(error.value)
