"""Animations as GIF, WebP or, with ffmpeg, MP4."""

import io
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, features

from tfgradgen.core.checks import fail
from tfgradgen.core.text import as_text, printable

ENDINGS = (".gif", ".webp", ".mp4")
HOLD = 0.6  # seconds for which the first and the last frame stay
COLOURS = "bt709"  # of MP4: matrix, primaries and transfer that its players know best
LONGEST = 600  # seconds that ffmpeg may take


def check_ending(path: Path) -> str:
    """Return the ending of `path`, by which the format of an animation is chosen.

    Raises:
      UserError: It is unknown, or this machine cannot write that format.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise fail("out", f"a file that ends in {', '.join(ENDINGS)}", as_text(path), "give another name, such as film.gif")
    if ending == ".mp4" and shutil.which("ffmpeg") is None:
        raise fail("out", "ffmpeg, which writes .mp4", "no ffmpeg on this machine", "install it, or write .gif or .webp")
    if ending == ".webp" and not features.check("webp"):
        raise fail("out", "a Pillow that writes WebP", "one that does not", "write .gif instead")
    return ending


def encoded(frames: Sequence[Image.Image], frames_per_second: float, ending: str, hold: float = HOLD) -> bytes:
    """Return `frames`, RGB images of one size, as the content of a file.

    Args:
      frames: At least one.
      frames_per_second: > 0. GIF has steps of a hundredth of a second.
      ending: One of `ENDINGS`.
      hold: Seconds for which the first and the last frame stay, at least.

    Raises:
      UserError: ffmpeg fails.
    """
    step = 1.0 / frames_per_second
    if ending == ".mp4":
        return _mp4(frames, frames_per_second, hold)
    times = [step] * len(frames)
    times[0], times[-1] = max(step, hold), max(step, hold)
    durations = [max(round(100 * time), 2) * 10 for time in times]  # milliseconds; viewers slow down anything below 20
    stream = io.BytesIO()
    first, *others = frames
    settings = {"save_all": True, "append_images": others, "duration": durations, "loop": 0}
    if ending == ".gif":
        first.save(stream, "GIF", **settings)
    else:
        first.save(stream, "WEBP", **settings, quality=90, method=4)
    return stream.getvalue()


def _mp4(frames: Sequence[Image.Image], frames_per_second: float, hold: float) -> bytes:
    """Return H.264 in MP4 that every player shows: even sides, half as many colours a side, and colours that are named.

    An odd side gets its last row or column twice. The first and the last frame are repeated.
    """
    held = max(0, round(hold * frames_per_second) - 1)
    shown = [frames[0]] * held + list(frames) + [frames[-1]] * held
    width, height = (side + side % 2 for side in frames[0].size)
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{frames_per_second:g}", "-i", "-"]
    # Without names of its colours, a player guesses them by the size of the film.
    colours = ["-vf", f"scale=out_color_matrix={COLOURS}:out_range=tv", "-color_range", "tv"]
    colours += [part for name in ("colorspace", "color_primaries", "color_trc") for part in (f"-{name}", COLOURS)]
    target = [*colours, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", "-movflags", "+faststart"]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as raw:
        path = Path(folder) / "film.mp4"
        for frame in shown:  # one by one: a film of thousands of frames is large
            raw.write(_even(np.asarray(frame.convert("RGB"))).tobytes())
        raw.seek(0)
        command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", *source, *target, str(path)]
        try:
            done = subprocess.run(command, stdin=raw, capture_output=True, timeout=LONGEST, check=False)
            said = done.stderr.decode(errors="replace").strip()
            is_done = done.returncode == 0 and path.is_file() and path.stat().st_size > 0
        except (OSError, subprocess.TimeoutExpired) as error:
            said, is_done = str(error), False
        if not is_done:
            why = printable(said.splitlines()[0]) if said else "it failed"
            raise fail("out", "a film from ffmpeg", why, "write .gif or .webp instead")
        return path.read_bytes()


def _even(frame: np.ndarray) -> np.ndarray:
    """Return `frame` [height, width, 3] with its last row and column repeated where their number is odd."""
    height, width, _ = frame.shape
    even: np.ndarray = np.pad(frame, [(0, height % 2), (0, width % 2), (0, 0)], mode="edge")
    return even
