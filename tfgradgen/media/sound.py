"""Sounds with one channel."""

import io
import wave
from typing import Any

import numpy as np

from tfgradgen.core.contracts import Tensor
from tfgradgen.media.medium import Dims, Medium
from tfgradgen.media.resample import centred, resample

FULL = 32767  # the stored value of 1
PAUSE = 0.25  # seconds between two sounds of the joined file
HEIGHT, WIDTH = 64, 128  # mel bands and columns of a spectrogram
WINDOW = 0.032  # seconds of a column
RANGE_DB = 60.0  # from white to black
QUIET = 1e-4  # mean square of a column; a sound that is quieter throughout is not drawn louder than this
AT_A_TIME = 64  # sounds whose spectrograms are in memory
LEAST_BINS = 512


class Sound(Medium):
    """Sounds [samples]: stored as int16, shown as log-mel spectrograms, frequency up and time to the right."""

    kind, noun, plural = "sound", "sound", "sounds"
    element = "sample"
    axes = ("samples",)
    dtype, bits, half_step = np.int16, 16, 0.5 / FULL
    usual_range, has_channels = True, False
    rate_name, usual_rate = "sample_rate", 16_000.0
    ending, mime = ".wav", "audio/wav"
    joined_name, is_audible = "sounds.wav", True
    free_size = 16_000
    distance_name = "log_spectral_distance"

    @classmethod
    def takes(cls, dims: Dims) -> bool:
        """Return whether `dims` are samples, also with an axis of one channel."""
        return len(dims) == 1 or (len(dims) == 2 and 1 in dims)

    @classmethod
    def canonical(cls, values: Any) -> Any:
        if len(values.shape) != 3:
            return values
        return values[..., 0] if values.shape[2] == 1 else values[:, 0]

    def fitted(self, values: Tensor, rate: float | None) -> Tensor:
        """Resample `values`, then cut or fill up their ends."""
        found = values if rate is None else resample(values, rate, self.used_rate)
        return found if self.shape[0] is None else centred(found, self.shape[0])

    def stored(self, values: Any) -> np.ndarray:
        rounded: np.ndarray = np.clip(np.rint(np.asarray(values, np.float32) * FULL), -FULL, FULL)
        return rounded.astype(np.int16)

    def values(self, stored: np.ndarray) -> np.ndarray:
        values: np.ndarray = stored.astype(np.float32) / FULL
        return values

    def pictures(self, stored: np.ndarray) -> np.ndarray:
        """Return log-mel spectrograms, uint8 [B, 64, 128, 1], dark where it is loud."""
        parts = [self._drawn(stored[k : k + AT_A_TIME]) for k in range(0, len(stored), AT_A_TIME)]
        return np.concatenate(parts) if parts else np.zeros((0, HEIGHT, WIDTH, 1), np.uint8)

    def _drawn(self, stored: np.ndarray) -> np.ndarray:
        power = mel_power(self.values(stored), self.used_rate)
        top = np.maximum(power.max((1, 2), keepdims=True), QUIET)
        level = 10.0 * np.log10(np.maximum(power / top, 1e-12))
        shade = np.clip(-level / RANGE_DB, 0.0, 1.0)
        grey = (40 + 215 * shade).astype(np.uint8)
        drawn: np.ndarray = np.swapaxes(grey, 1, 2)[:, ::-1, :, None]
        return drawn

    def file(self, one: np.ndarray) -> bytes:
        return as_wav(one, self.used_rate)

    def joined(self, stored: np.ndarray) -> bytes:
        """Return all in a row, with a pause after each."""
        pause = np.zeros((len(stored), round(PAUSE * self.used_rate)), stored.dtype)
        return as_wav(np.concatenate([stored, pause], 1).ravel(), self.used_rate)

    def distances(self, stored: np.ndarray) -> np.ndarray | None:
        """Return the log-spectral distance of all pairs, in decibels: the root mean square difference of log-mel spectra."""
        power = [mel_power(self.values(stored[k : k + AT_A_TIME]), self.used_rate) for k in range(0, len(stored), AT_A_TIME)]
        floor = 10 ** (-RANGE_DB / 10)
        rows = 10.0 * np.log10(np.maximum(np.concatenate(power).reshape(len(stored), -1), floor))
        squares = np.sum(rows**2, 1)
        between = squares[:, None] + squares[None] - 2.0 * rows @ rows.T
        distances: np.ndarray = np.sqrt(np.maximum(between, 0.0) / rows.shape[1])
        np.fill_diagonal(distances, 0.0)
        return distances


def mel_power(waveform: np.ndarray, rate: float) -> np.ndarray:
    """Return the power of `waveform` [B, n] in `HEIGHT` mel bands at `WIDTH` times, float64 [B, WIDTH, HEIGHT]."""
    size = max(4, round(WINDOW * rate))
    bins = max(LEAST_BINS, 1 << (size - 1).bit_length())
    padded = np.pad(waveform.astype(np.float64), [(0, 0), (size // 2, size)])
    starts = np.rint(np.linspace(0, max(waveform.shape[1] - 1, 0), WIDTH)).astype(int)
    columns = padded[:, starts[:, None] + np.arange(size)] * np.hanning(size)
    spectrum = np.abs(np.fft.rfft(columns, 2 * bins)) ** 2 / np.hanning(size).sum() ** 2
    power: np.ndarray = spectrum @ mel_bands(rate, spectrum.shape[-1])
    return power


def mel_bands(rate: float, num_bins: int) -> np.ndarray:
    """Return triangles of equal width in mel, [num_bins, HEIGHT], each with sum 1."""
    edges = np.linspace(0.0, _mel(rate / 2), HEIGHT + 2)
    at = _mel(np.linspace(0.0, rate / 2, num_bins))[:, None]
    rising, falling = (at - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - at) / np.diff(edges)[1:]
    bands = np.maximum(0.0, np.minimum(rising, falling))
    nearest = np.abs(at - edges[1:-1]).argmin(0)  # of a band that lies between two bins
    bands[nearest, np.arange(HEIGHT)] += 1e-9
    summed: np.ndarray = bands / bands.sum(0)
    return summed


def _mel(frequency: Any) -> Any:
    return 2595.0 * np.log10(1.0 + np.asarray(frequency) / 700.0)


def as_wav(samples: np.ndarray, rate: float) -> bytes:
    """Return `samples` int16 [n] as the content of a WAV file with one channel."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(max(1, round(rate)))
        file.writeframes(samples.astype("<i2").tobytes())
    return stream.getvalue()
