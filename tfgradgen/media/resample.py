"""Resampling of sounds by a polyphase windowed-sinc filter, as one strided convolution with gradients.

The filter is that of `scipy.signal.resample_poly`: a sinc cut off at the lower of the two Nyquist frequencies, in a Kaiser
window of 20 zero crossings (beta 5). Its stop band is 60 dB down.
"""

import functools
from fractions import Fraction

import numpy as np

from tfgradgen.core.contracts import Tensor
from tfgradgen.core.lazy import tf

CROSSINGS, BETA = 10, 5.0  # zero crossings on each side; shape of the Kaiser window
MOST_PHASES = 1000  # largest denominator of the ratio of two rates; others are rounded to it


@functools.lru_cache(maxsize=32)
def filter_bank(up: int, down: int) -> tuple[np.ndarray, int]:
    """Return the filters of all phases, float32 [width, 1, up], and the number of samples before the first that they see.

    Output q * up + p is the sum over k of bank[k, 0, p] times input q * down + k - before.
    """
    most = max(up, down)
    half = CROSSINGS * most
    n = np.arange(-half, half + 1)
    taps = np.sinc(n / most) * np.kaiser(2 * half + 1, BETA)
    taps *= up / taps.sum()
    before = half // up
    width = before + 1 + (half + (up - 1) * down) // up
    # Output m sees input k through the tap at m * down - k * up.
    at = np.arange(up)[None] * down - (np.arange(width)[:, None] - before) * up + half
    is_inside = (at >= 0) & (at <= 2 * half)
    bank = np.where(is_inside, taps[np.clip(at, 0, 2 * half)], 0.0)
    return bank.astype(np.float32)[:, None], before


def resample(waveform: Tensor, rate: float, new_rate: float) -> Tensor:
    """Resample `waveform` [B, n] from `rate` to `new_rate`: [B, ceil(n * new_rate / rate)].

    The ratio of the rates is rounded to a fraction of denominator at most `MOST_PHASES`. Outside there is silence.
    """
    ratio = Fraction(new_rate / rate).limit_denominator(MOST_PHASES)
    up, down = max(ratio.numerator, 1), ratio.denominator
    if up == down:
        return waveform
    bank, before = filter_bank(up, down)
    size = tf.shape(waveform)[1] if waveform.shape[1] is None else waveform.shape[1]
    length = -(-size * up // down)
    num_blocks = -(-length // up)
    after = (num_blocks - 1) * down + len(bank) - before - size
    after = max(after, 0) if isinstance(after, int) else tf.maximum(after, 0)
    padded = tf.pad(waveform, [[0, 0], [before, after]])
    blocks = tf.nn.conv1d(padded[..., None], bank, down, "VALID")[:, :num_blocks]
    return tf.reshape(blocks, [-1, num_blocks * up])[:, :length]


def centred(waveform: Tensor, length: int) -> Tensor:
    """Return the middle `length` samples of `waveform` [B, n], with silence around them if there are fewer."""
    size = waveform.shape[1]
    if size == length:
        return waveform
    if size > length:
        start = (size - length) // 2
        return waveform[:, start : start + length]
    before = (length - size) // 2
    return tf.pad(waveform, [[0, 0], [before, length - size - before]])
