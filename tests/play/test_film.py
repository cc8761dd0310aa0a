"""film: a chain from its start, through the burn-in, which is drawn again, to its last draw; and the files."""

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tfgradgen as tg
from tests.support import toy
from tfgradgen.core.checks import UserError
from tfgradgen.io.animation import HOLD
from tfgradgen.mcmc.starts import choose_starts, initial_points
from tfgradgen.play.clip import Clip
from tfgradgen.play.film import NOT_SAME, film

POSTERIOR = tg.ClassPosterior(toy.ToyGenerator(), toy.ToyClassifier(), 1)


@pytest.fixture(scope="module")
def run() -> tg.SampleResult:
    return tg.sample(POSTERIOR, "mala", num_results=5, num_burnin_steps=6, num_adaptation_steps=0, num_chains=3, seed=4)


def test_it_goes_from_the_start_through_the_burn_in(run: tg.SampleResult) -> None:
    clip = film(run, 1, posterior=POSTERIOR)
    whole = tg.sample(POSTERIOR, "mala", num_results=11, num_burnin_steps=0, num_adaptation_steps=0, num_chains=3, seed=4)
    np.testing.assert_array_equal(clip.z[1:], whole.z[:, 1])
    start = initial_points(POSTERIOR, tg.RunConfig(num_chains=3, seed=4))[0][1]
    np.testing.assert_array_equal(clip.z[0], start)
    np.testing.assert_allclose(clip.class_prob, np.exp(POSTERIOR.class_log_prob(clip.z)), atol=1e-5)
    points = clip.record["points"]
    assert (len(points), points[0], points[1], points[7], points[-1]) == (
        *(12, "start", "burn-in 1 of 6", "draw 1 of 5"),
        "draw 5 of 5",
    )
    assert "warning" not in clip.record
    assert clip.title == "1, mala, seed 4, temperature 1, chain 1"


def test_the_starts_are_drawn_once(run: tg.SampleResult, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr("tfgradgen.mcmc.runs.choose_starts", lambda *given: calls.append(1) or choose_starts(*given))
    film(run, 1, posterior=POSTERIOR)
    assert len(calls) == 1


def test_a_standstill_is_said(run: tg.SampleResult) -> None:
    clip = film(run, 0, posterior=POSTERIOR)
    still = [False, *(np.diff(clip.z, axis=0) == 0).all(1)]
    assert [caption.endswith(", not moved") for caption in clip.captions] == still


def test_of_many_draws_evenly_spaced_ones_are_shown(run: tg.SampleResult) -> None:
    clip = film(run, 1, frames=3, burnin=False, posterior=POSTERIOR)
    assert clip.record["points"] == ["draw 1 of 5", "draw 3 of 5", "draw 5 of 5"]
    np.testing.assert_array_equal(clip.z, run.z[::2, 1])


def test_where_the_burn_in_cannot_be_drawn_again_the_film_says_so(run: tg.SampleResult) -> None:
    other = run.noted({})
    other.draws = run.draws._replace(z=run.z + np.float32(1e-3))
    clip = film(other, 1, posterior=POSTERIOR)
    assert clip.record["warning"] == NOT_SAME
    assert clip.record["points"][0] == "draw 1 of 5"


def test_each_chain_of_a_vector_of_labels_has_its_own_film() -> None:
    posterior = POSTERIOR.copy(label=[0, 1, 1])
    result = tg.sample(posterior, "mala", num_results=3, num_burnin_steps=2, num_chains=3)
    for chain in (0, 2):
        clip = film(result, chain, posterior=posterior)
        assert "warning" not in clip.record
        np.testing.assert_array_equal(clip.z[3:], result.z[:, chain])
        np.testing.assert_allclose(clip.class_prob[3:], result.class_prob[:, chain], atol=1e-5)
        assert clip.record["points"][0] == "start"


def test_independent_draws_have_no_burn_in() -> None:
    result = tg.sample(POSTERIOR, "rejection", num_results=4, num_chains=2)
    assert film(result, 1, posterior=POSTERIOR).record["points"] == [f"draw {k} of 4" for k in (1, 2, 3, 4)]


@pytest.fixture
def clip() -> Clip:
    images = np.zeros((4, 8, 8, 3), np.uint8) + np.arange(4, dtype=np.uint8)[:, None, None, None] * 60
    return Clip(images, np.zeros((4, 6), np.float32), np.full(4, 0.5, np.float32), tuple("abcd"), "title", {"command": "film"})


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_a_film_is_what_its_frames_are(ending: str, clip: Clip, tmp_path: Path) -> None:
    path = clip.save(tmp_path / f"x.{ending}", scale=4, fps=10)
    frames = clip.frames(4)
    with Image.open(path) as found:
        assert found.n_frames == 4
        assert found.size == frames[0].size
        times = []
        for k, frame in enumerate(frames):
            found.seek(k)
            found.load()
            times.append(found.info["duration"])
            assert np.abs(np.asarray(found.convert("RGB")).astype(int) - np.asarray(frame)).mean() < 6
        assert found.info["loop"] == 0
    assert times == [1000 * HOLD, 100, 100, 1000 * HOLD]
    record = json.loads((tmp_path / f"x.{ending}.json").read_text())
    assert (record["command"], record["scale"], record["frames_per_second"]) == ("film", 4, 10)
    with pytest.raises(UserError, match="which exists"):
        clip.save(path)
    clip.save(path, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"x.{ending}", f"x.{ending}.json"]


def fake_ffmpeg(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


def test_mp4_is_made_by_ffmpeg_from_the_frames(clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in the place of ffmpeg writes what it reads."""
    fake_ffmpeg(tmp_path, 'for last; do :; done; cat > "$last"', monkeypatch)
    data = clip.save(tmp_path / "x.mp4", scale=4, fps=5).read_bytes()
    frames = [np.asarray(frame).tobytes() for frame in clip.frames(4)]
    held = round(HOLD * 5) - 1
    assert data == b"".join([frames[0]] * held + frames + [frames[-1]] * held)


@pytest.mark.parametrize("script", ["echo no such encoder >&2; exit 1", "exit 0"])
def test_a_film_that_ffmpeg_does_not_write_leaves_nothing(
    script: str, clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_ffmpeg(tmp_path, f"cat > /dev/null; {script}", monkeypatch)
    words = "no such encoder" if "echo" in script else "it failed"
    with pytest.raises(UserError, match=f"out: expected a film from ffmpeg, got {words}"):
        clip.save(tmp_path / "x.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_what_cannot_be_written_is_refused(clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for name, words in {
        "x.mp4": "no ffmpeg on this machine",
        "x.avi": r"ends in \.gif, \.webp, \.mp4",
        "x": "ends in",
        f"{'x' * 300}.gif": "a shorter name",
    }.items():
        with pytest.raises(UserError, match=words):
            clip.save(tmp_path / name)
    (tmp_path / "x.gif").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="which is something else"):
        clip.save(tmp_path / "x.gif", overwrite=True)
    for given in ({"fps": 0}, {"fps": 1e-9}, {"fps": 51}, {"scale": 0}, {"scale": 2.5}):
        with pytest.raises(UserError):
            clip.save(tmp_path / "y.gif", **given)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["x.gif"]


def test_an_interrupted_write_leaves_neither_film_nor_record(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if target.name == "x.gif":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("tfgradgen.core.files.os.replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        clip.save(tmp_path / "x.gif")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["x.gif", "x.gif.json"])
def test_a_failed_overwrite_leaves_the_earlier_film_and_record(
    failing: str, clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip.save(tmp_path / "x.gif", fps=10)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    replace, failed = os.replace, []

    def full(source: Path, target: Path) -> None:
        if target.name == failing and not failed:
            failed.append(target)
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("tfgradgen.core.files.os.replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        clip.save(tmp_path / "x.gif", fps=20, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
