"""Models that are sent to workers as bytes."""

from pathlib import Path

import pytest

from tests.support.fleets import HereFleet, on_fleet
from tfgradgen.cli.commands import main
from tfgradgen.core.checks import UserError
from tfgradgen.engine import models
from tfgradgen.engine.models import Packed, is_here, pack, unpacked


def test_a_model_arrives_whole(toy_pair: tuple[Path, Path]) -> None:
    packed = pack(str(toy_pair[1]))
    assert {"saved_model.pb", "model.json"} < {*packed.files}
    assert is_here(str(toy_pair[1]), packed.sha256)
    assert not is_here(str(toy_pair[0]), packed.sha256)
    assert not is_here("/nowhere", packed.sha256)
    with unpacked({"classifier": packed}) as folders:
        folder = Path(folders["classifier"])
        assert pack(str(folder)) == packed
    assert not folder.exists()


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "", "a\\..\\x"])
def test_a_name_that_leads_out_is_refused(name: str, toy_pair: tuple[Path, Path]) -> None:
    packed = pack(str(toy_pair[1]))
    wrong = Packed(packed.sha256, packed.files | {name: b"x"})
    with pytest.raises(UserError, match="a model whose files are in its folder"), unpacked({"classifier": wrong}):
        pass


def test_other_bytes_are_refused(toy_pair: tuple[Path, Path]) -> None:
    packed = pack(str(toy_pair[1]))
    wrong = Packed(packed.sha256, packed.files | {"saved_model.pb": packed.files["saved_model.pb"] + b"x"})
    with pytest.raises(UserError, match="a model with the digest of the command's"), unpacked({"classifier": wrong}):
        pass


def test_workers_without_the_files_draw_the_same(toy_flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command = [
        "sample",
        "--label=alp",
        "--kernel=mala",
        "--num_chains=4",
        "--num_results=5",
        "--num_burnin_steps=5",
        *toy_flags,
    ]
    main([*command, "--out=near"])
    monkeypatch.setattr("tfgradgen.engine.models.is_here", lambda handle, sha256: False)
    asked, unpack = [], models.unpacked
    monkeypatch.setattr("tfgradgen.engine.models.unpacked", lambda packed: asked.append({*packed}) or unpack(packed))
    with on_fleet(HereFleet(), is_elsewhere=True):
        main([*command, "--devices=all", "--out=far"])
    assert len(asked[0]) == 2
    assert Path("near/samples.npz").read_bytes() == Path("far/samples.npz").read_bytes()
