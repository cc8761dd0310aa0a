"""MP4 by the real ffmpeg: what it writes is read back. Without one these tests are skipped, unless REQUIRE_FFMPEG=1."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tfgradgen.core.checks import UserError
from tfgradgen.io.animation import encoded

REQUIRED = "REQUIRE_FFMPEG"


@pytest.fixture(autouse=True)
def ffmpeg() -> None:
    missing = [name for name in ("ffmpeg", "ffprobe") if shutil.which(name) is None]
    if missing and os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{REQUIRED}=1, but {' and '.join(missing)} is missing")
    if missing:
        pytest.skip(f"NO TEST OF MP4 FILES: {' and '.join(missing)} is missing; on Debian: apt-get install ffmpeg")


def stream_of(path: Path) -> dict[str, Any]:
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-of", "json", str(path)]
    return dict(json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["streams"][0])


def frames_of(path: Path) -> np.ndarray:
    """Uint8 [num_frames, height, width, 3]."""
    stream = stream_of(path)
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, stream["height"], stream["width"], 3)


def pictures(count: int, width: int, height: int) -> list[Image.Image]:
    """Large patches of plain colours, which change from frame to frame."""
    found = []
    for k in range(count):
        pixels = np.full((height, width, 3), (40 + 40 * k, 90, 200), np.uint8)
        pixels[: height // 2, : width // 2], pixels[height // 2 :, width // 2 :] = (230, 20, 20), (20, 200, 60)
        found.append(Image.fromarray(pixels))
    return found


@pytest.mark.parametrize(("size", "rate", "hold"), [((64, 48), 12.5, 0.0), ((33, 31), 25 / 3, 0.0), ((47, 64), 5.0, 0.6)])
def test_a_film_has_the_frames_the_colours_and_the_time(
    size: tuple[int, int], rate: float, hold: float, tmp_path: Path
) -> None:
    given, path = pictures(5, *size), tmp_path / "x.mp4"
    path.write_bytes(encoded(given, rate, ".mp4", hold))
    stream, held = stream_of(path), max(0, round(hold * rate) - 1)
    assert (stream["codec_name"], stream["pix_fmt"], stream["color_space"]) == ("h264", "yuv420p", "bt709")
    assert (stream["width"] % 2, stream["height"] % 2) == (0, 0)
    assert (stream["width"], stream["height"]) == tuple(side + side % 2 for side in size)
    assert float(stream["duration"]) == pytest.approx((5 + 2 * held) / rate, rel=1e-3)
    found = frames_of(path).astype(int)
    shown = [given[0]] * held + given + [given[-1]] * held
    assert len(found) == len(shown)
    inner = np.s_[4:12, 4:12]  # away from edges, where colours have half the sharpness
    for own, frame in zip(found, shown, strict=True):
        expected = np.asarray(frame).astype(int)
        assert np.abs(own[inner] - expected[inner]).max() < 8
        assert np.abs(own[-8:-4, 4:12] - expected[-8:-4, 4:12]).max() < 8
        if stream["height"] != size[1]:
            assert np.abs(own[-1, 4:12] - own[-2, 4:12]).max() < 8, "no white line below"


def test_what_ffmpeg_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfgradgen.io.animation.COLOURS", "no_such_colours")
    with pytest.raises(UserError, match=r"out: expected a film from ffmpeg, got .*; write .gif or .webp instead") as error:
        encoded(pictures(2, 16, 16), 5.0, ".mp4")
    assert "\n" not in str(error.value)
