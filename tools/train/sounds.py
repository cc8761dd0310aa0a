"""Labelled recordings from `train/<word>/<speaker>_<nn>.wav` and `val/...` in a folder or .tar, and augmentation in NumPy."""

import functools
from pathlib import Path

import numpy as np
from scipy.io import wavfile
from scipy.signal import resample_poly

from tfgradgen.core.parsing import parsing
from tools.train.photographs import as_folder

RATE, SAMPLES = 8000, 6400  # Hz; 0.8 s
LOUDNESS = 0.12  # root mean square of the loud half of a recording, of full scale 1
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KINDS = (0.2, 0.2, 0.2, 0.15, 0.15, 0.1)  # shares of the sounds that are no word: reversed, cut, shuffled, mixed, noise, tones
FADE = 40  # samples; the ends of a recording would click without it


def word_names(data, names=()):
    """Return the words of `data`: `names` if given, digits in their order, anything else by the alphabet."""
    found = sorted(path.name for path in (as_folder(data) / "train").iterdir() if path.is_dir())
    return list(names) or (list(DIGITS) if set(found) == set(DIGITS) else found)


def read(path):
    """Return one recording of any rate and number of channels as float32 [N] at 8 kHz."""
    with parsing(str(path), "a WAV file", "take it away, or give another"):
        rate, wave = wavfile.read(path)
    scale = np.iinfo(wave.dtype).max if np.issubdtype(wave.dtype, np.integer) else 1
    wave = wave.reshape(len(wave), -1).mean(1) / scale
    if rate != RATE:
        wave = resample_poly(wave, RATE, rate)
    return wave.astype("float32")


def fitted(wave):
    """Return `wave [N]` as float32 [SAMPLES], at LOUDNESS: its loudest part, or all in the middle of silence."""
    wave = wave - wave.mean()
    if len(wave) > SAMPLES:
        energy = np.concatenate([[0], np.cumsum(np.square(wave, dtype="float64"))])
        start = int(np.argmax(energy[SAMPLES:] - energy[:-SAMPLES]))
        wave = wave[start : start + SAMPLES]
    blocks = np.sort(np.square(wave[: len(wave) // 80 * 80], dtype="float64").reshape(-1, 80).mean(1))
    wave = wave * (LOUDNESS / max(np.sqrt(blocks[len(blocks) // 2 :].mean()), 1e-6))
    wave = wave / max(1.0, np.abs(wave).max() / 0.95)
    ramp = np.minimum(1, (np.arange(len(wave)) + 0.5) / FADE)
    before = (SAMPLES - len(wave)) // 2
    return np.pad(wave * ramp * ramp[::-1], (before, SAMPLES - len(wave) - before)).astype("float32")


@functools.lru_cache(maxsize=4)
def load(data, split, names):
    """Return (`wave` float32 [N, SAMPLES], `label` int32 [N], speakers: a list of N names) of the words `names` (a tuple)."""
    waves, labels, speakers = [], [], []
    for index, name in enumerate(names):
        paths = sorted((as_folder(data) / split / name).glob("*.wav"))
        if not paths:
            raise SystemExit(f"{data}: expected WAV files in {split}/{name}/, got none; give labelled recordings.")
        waves += [fitted(read(path)) for path in paths]
        labels += [index] * len(paths)
        speakers += [Path(path).stem.rsplit("_", 1)[0] for path in paths]
    return np.stack(waves), np.asarray(labels, "int32"), speakers


def at_times(waves, times):
    """Return `waves [B, N]` at the fractional sample numbers `times [B, N]`, linearly interpolated, 0 outside."""
    padded = np.pad(waves, ((0, 0), (1, 2)))
    times = np.clip(times + 1, 0, waves.shape[1] + 1)
    whole = times.astype("int64")
    rows = np.arange(len(waves))[:, None]
    part = (times - whole).astype("float32")
    return padded[rows, whole] * (1 - part) + padded[rows, whole + 1] * part


def coloured_noise(rng, count, samples=SAMPLES):
    """Return noise [count, samples] with unit mean square, whose spectrum falls or rises and may have a peak."""
    spectrum = np.fft.rfft(rng.standard_normal((count, samples)))
    frequency = np.maximum(np.fft.rfftfreq(samples), 1 / samples)[None]
    slope, centre, width = (
        rng.uniform(-1.2, 0.5, (count, 1)),
        rng.uniform(0.01, 0.5, (count, 1)),
        rng.uniform(0.02, 0.2, (count, 1)),
    )
    peak = rng.uniform(0, 8, (count, 1)) * np.exp(-(((frequency - centre) / width) ** 2))
    noise = np.fft.irfft(spectrum * frequency**slope * (1 + peak), samples)
    return (noise / np.sqrt(np.mean(noise**2, axis=1, keepdims=True))).astype("float32")


def varied(rng, waves, strength=1.0):
    """Return `waves` with other speed, place, tone, loudness, with noise, and with a short gap in some; [B, SAMPLES]."""
    count, samples = waves.shape
    u = lambda low, high: rng.uniform(low, high, (count, 1)).astype("float32")  # noqa: E731
    middle = samples / 2
    speed, shift = np.exp(strength * u(-0.18, 0.18)), strength * u(-700, 700)
    waves = at_times(waves, (np.arange(samples)[None] - middle) * speed + middle + shift)
    tilt = strength * u(-0.4, 0.4)
    waves = waves + tilt * np.roll(waves, 1, axis=1)
    waves = waves * np.exp(strength * u(-1.0, 0.6))
    gap, width = u(0, samples), strength * u(0, 500) * (u(0, 1) < 0.4)
    waves = waves * (np.abs(np.arange(samples)[None] - gap) >= width)
    level = LOUDNESS * np.exp(u(-7.5, -1.8 * strength)) * (u(0, 1) < 0.7)
    return np.clip(waves + level * coloured_noise(rng, count, samples), -1, 1).astype("float32")


def not_words(rng, waves, count):
    """Return `count` sounds that are no word: recordings [N, SAMPLES] reversed, cut, shuffled or mixed, noise, and tones."""
    chosen = lambda n: waves[rng.integers(len(waves), size=n)].copy()  # noqa: E731
    num_reversed, num_cut, num_shuffled, num_mixed, num_noises, num_tones = rng.multinomial(count, KINDS)
    samples = waves.shape[1]
    made = [chosen(num_reversed)[:, ::-1]]
    # A tenth of a second.
    time, middle = np.arange(samples)[None], rng.uniform(0.32, 0.68, (num_cut, 1)) * samples
    made.append(chosen(num_cut) * (np.abs(time - middle) < rng.uniform(200, 500, (num_cut, 1))))
    # Pieces of a twelfth of a second in another order.
    pieces, order = chosen(num_shuffled).reshape(num_shuffled, 10, samples // 10), rng.random((num_shuffled, 10)).argsort(1)
    made.append(np.take_along_axis(pieces, order[:, :, None], axis=1).reshape(num_shuffled, samples))
    made.append(0.7 * (chosen(num_mixed) + np.roll(chosen(num_mixed), rng.integers(-800, 800), axis=1)))
    made.append(coloured_noise(rng, num_noises, samples) * np.exp(rng.uniform(-8, -1.5, (num_noises, 1))))
    pitch = rng.uniform(80, 1500, (num_tones, 1, 1)) * np.arange(1, 5)[None, :, None]
    tones = np.sin(2 * np.pi * pitch * time / RATE) * rng.dirichlet(np.ones(4), num_tones)[:, :, None]
    made.append(tones.sum(1) * rng.uniform(0.01, 0.5, (num_tones, 1)))
    return np.concatenate(made).astype("float32")
