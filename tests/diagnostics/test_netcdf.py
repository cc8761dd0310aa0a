"""chains.nc, read back by xarray and by ArviZ."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray

from tests.support.command import refused
from tfgradgen import __version__
from tfgradgen.cli.commands import main
from tfgradgen.core.contracts import Draws
from tfgradgen.diagnostics import netcdf
from tfgradgen.diagnostics.convergence import convergence
from tfgradgen.diagnostics.netcdf import write_netcdf
from tfgradgen.io.folders import OURS
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.results.files import NETCDF

pytestmark = pytest.mark.usefixtures("quick_runs")

RUN = ["sample", "--label=alp", "--kernel=mala", "--num_chains=3", "--num_results=30", "--num_burnin_steps=20"]


def read(path: Path | str) -> Any:
    with xarray.open_datatree(path, engine="h5netcdf") as tree:
        return tree.load()


def run(toy_flags: list[str], *flags: str) -> tuple[Any, dict[str, np.ndarray], dict[str, Any]]:
    """Return chains.nc as xarray reads it, samples.npz and run.json of a run."""
    main([*RUN, "--out=run", *flags, *toy_flags])
    with np.load("run/samples.npz") as file:
        samples = dict(file)
    return read("run/chains.nc"), samples, json.loads(Path("run/run.json").read_text())


def test_every_draw_is_read_back_under_arviz_s_names(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    tree, samples, record = run(toy_flags, "--netcdf")
    assert "samples.npz, chains.nc, checkpoint.npz, run.json" in capsys.readouterr().out
    posterior, stats = tree["posterior"], tree["sample_stats"]
    assert posterior["z"].dims == ("chain", "draw", "latent")
    assert dict(posterior.sizes) == {"chain": 3, "draw": 30, "latent": 6}
    assert stats["lp"].dims == ("chain", "draw")
    for variable, name in (
        (posterior["z"], "z"),
        (posterior["class_prob"], "class_prob"),
        (stats["lp"], "target_log_prob"),
        (stats["step_size"], "step_size"),
        (stats["is_accepted"], "is_accepted"),
        (stats["log_accept_ratio"], "log_accept_ratio"),
    ):
        assert variable.dtype == samples[name].dtype
        np.testing.assert_array_equal(variable.values, np.swapaxes(samples[name], 0, 1))
    for group in (tree, posterior, stats):
        attributes = {
            name: group.attrs[name] for name in group.attrs if name not in ("created_at", "arguments", "sampling_time")
        }
        assert attributes == {
            "inference_library": "tfgradgen",
            "inference_library_version": __version__,
            "tuning_steps": record["arguments"]["schedule"]["num_adaptation_steps"],
            "label": "alp",
            "kernel": "mala",
            "kind": "chain",
            "seed": 0,
            "generator_sha256": record["generator"]["sha256"],
            "classifier_sha256": record["classifier"]["sha256"],
        }
        assert json.loads(group.attrs["arguments"]) == record["arguments"]


def test_arviz_finds_the_rhat_and_the_ess_that_we_find(toy_flags: list[str]) -> None:
    pytest.importorskip("arviz_base", reason="for Python 3.10 there is none that reads xarray's trees")
    import arviz_base
    import arviz_stats

    _, samples, record = run(toy_flags, "--netcdf")
    tree = arviz_base.convert_to_datatree("run/chains.nc")
    # In float32, distances to the median have ties, which changes their ranks.
    tree["posterior"] = xarray.DataTree(tree["posterior"].to_dataset().astype(np.float64))
    ours = record["statistics"]["class_prob"]
    assert arviz_stats.rhat(tree, method="rank")["class_prob"].item() == pytest.approx(ours["rhat"], rel=1e-6)
    distinct = sum(record["chains"]["num_distinct"])  # ours is never above it
    theirs = min(arviz_stats.ess(tree, method="bulk")["class_prob"].item(), distinct)
    assert theirs == pytest.approx(ours["ess_bulk"], rel=1e-6)
    z = convergence(samples["z"][..., 4])
    assert arviz_stats.rhat(tree, method="rank")["z"].values[4] == pytest.approx(z.rhat, rel=1e-6)
    assert min(arviz_stats.ess(tree, method="bulk")["z"].values[4], distinct) == pytest.approx(z.ess_bulk, rel=1e-6)


def test_acceptance_and_divergence_follow_from_the_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netcdf, "BLOCK_DRAWS", 4)  # so that six draws are in two blocks
    ratio = np.array([[0.0, 3.0, np.log(0.25), -2000.0, np.nan, -np.inf], [np.inf, -999.0, -1001.0, 0.0, 0.0, 0.0]], np.float32)
    grid = np.arange(12, dtype=np.float32).reshape(6, 2)
    z = np.arange(60, dtype=np.float32).reshape(6, 2, 5)
    write_netcdf(tmp_path / "a.nc", Draws(z, grid, grid, grid > 3, grid, ratio.T), {}, is_chain=True)
    tree = read(tmp_path / "a.nc")
    stats = tree["sample_stats"]
    expected = [[1, 1, 0.25, 0, 0, 0], [1, 0, 0, 1, 1, 1]]
    np.testing.assert_allclose(stats["acceptance_rate"].values, expected, rtol=1e-6)
    diverging = [[False, False, False, True, False, False], [False, False, True, False, False, False]]
    assert stats["diverging"].dtype == bool
    assert stats["diverging"].values.tolist() == diverging
    np.testing.assert_array_equal(tree["posterior"]["z"].values, np.swapaxes(z, 0, 1))


@pytest.mark.parametrize(
    ("kernel", "stats"),
    [
        ("rejection", {"lp"}),
        ("smc", {"lp"}),
        ("map", {"lp", "step_size"}),
        ("elliptical_slice", {"lp", "acceptance_rate", "diverging", "is_accepted", "log_accept_ratio"}),
    ],
)
def test_a_method_has_the_statistics_that_it_knows(kernel: str, stats: set[str], toy_flags: list[str]) -> None:
    flags = [f"--kernel={kernel}", "--num_results=5", "--num_chains=3", "--out=run", "--netcdf"]
    main(["sample", "--label=alp", *flags, *toy_flags])
    tree = read("run/chains.nc")
    assert set(tree["sample_stats"].data_vars) == stats
    assert all(np.isfinite(values).all() for values in tree["sample_stats"].data_vars.values())
    whole = OURS if SAMPLERS[kernel].can_go_on else OURS - {"checkpoint.npz"}
    assert {path.name for path in Path("run").iterdir()} == whole


def test_without_the_library_it_is_said_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "h5netcdf", None)
    line = refused([*RUN, "--netcdf", "--generator=nowhere"], capsys)
    assert "netcdf: expected h5netcdf" in line
    assert "pip install 'tfgradgen[netcdf]'" in line
    assert "model nowhere" in refused([*RUN, "--generator=nowhere"], capsys), "without the flag nobody asks"
    assert not list(tmp_path.iterdir())


def test_it_changes_nothing_else_and_is_added_to_a_run_that_is_whole(
    toy_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*RUN, "--out=run", *toy_flags]
    main(command)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert NETCDF not in before
    main([*command, "--resume", "--netcdf"])
    after = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    noted = {NETCDF, "run.json", "report.html"}  # the record, and the command on the page, say that it was asked for
    assert {name: data for name, data in after.items() if name not in noted} == {
        name: data for name, data in before.items() if name not in noted
    }
    records = [json.loads(files["run.json"]) for files in (before, after)]
    assert [record["arguments"].pop("netcdf") for record in records] == [False, True]
    assert records[0] == records[1]
    added = read("run/chains.nc")
    main([*command, "--overwrite", "--netcdf"])
    assert (tmp_path / "run/samples.npz").read_bytes() == before["samples.npz"]
    again = read("run/chains.nc")
    xarray.testing.assert_equal(again, added)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
