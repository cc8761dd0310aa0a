"""Speech as the parameters of its source and filter, and back: analysis in NumPy, synthesis differentiable in Keras.

The parameters [FRAMES, PARAMETERS], float32 in [-1, 1], have for each frame of 12.5 ms: the log power of the spectral envelope
in BANDS mel bands, the periodic share of the power in PERIODIC bands, and the logarithm of the pitch. Synthesis sends pulses of
that pitch and a fixed noise through a minimum-phase filter with that envelope. So speech is modelled by the vocoders WORLD
(Morise et al. 2016) and, with gradients, DDSP (Engel et al. 2020). Nothing here is trained.
"""

import functools

import keras
import numpy as np
from keras import ops

from tools.train.sounds import RATE, SAMPLES

HOP, WINDOW, FFT = 100, 200, 400  # samples
FRAMES, BANDS, KNOTS = SAMPLES // HOP, 32, 16
PERIODIC = 4  # bands of equal width in which the periodic share is measured
PARAMETERS = BANDS + PERIODIC + 1
FLOOR, CEILING = -13.5, 1.5  # natural log of the envelope's power, where white noise of mean square 1 has power 1
PITCH, OCTAVES = 130.0, 1.2  # Hz, and what 1 in the parameters stands for
PULSE_WIDTH = 1500.0  # Hz: standard deviation of a pulse's Gaussian spectrum; the filter makes it flat


def to_mel(hertz):
    """Return the mel scale of O'Shaughnessy (1987) of a frequency in Hz."""
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


def mel_edges(bands, low=0.0, high=RATE / 2):
    """Return [bands + 2] frequencies in Hz: band k rises from the k-th to the next, its centre, and falls to the one after."""
    return 700.0 * np.expm1(np.linspace(to_mel(low), to_mel(high), bands + 2) / 1127.0)


def mel_filters(bands, bins):
    """Return triangular filters [bins, bands] whose columns sum to 1, for `bins` frequencies from 0 to RATE / 2."""
    edges, frequency = mel_edges(bands), np.linspace(0, RATE / 2, bins)[:, None]
    rising = (frequency - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequency) / (edges[2:] - edges[1:-1])
    filters = np.maximum(np.minimum(rising, falling), 1e-9 * (np.abs(frequency - edges[1:-1]) < RATE / 2 / bins))
    return filters / filters.sum(0)


def linear(positions, knots):
    """Return the matrix [len(positions), len(knots)] of linear interpolation, constant beyond the ends."""
    return np.stack([np.interp(positions, knots, row) for row in np.eye(len(knots))], axis=1)


def knot_matrix():
    """Return the matrix [FRAMES, KNOTS] that a pitch curve is a linear combination of."""
    return linear(np.arange(FRAMES) + 0.5, (np.arange(KNOTS) + 0.5) * FRAMES / KNOTS)


def frames_of(wave, width):
    """Return the windows [FRAMES, width] around the middle of each frame of `wave [SAMPLES]`."""
    padded = np.pad(wave, width)
    starts = np.arange(FRAMES) * HOP + HOP // 2 + width - width // 2
    return padded[starts[:, None] + np.arange(width)]


def spread(bins):
    """Return the frequencies in Hz of `bins` equal steps from 0 to RATE / 2."""
    return np.linspace(0, RATE / 2, bins)


@functools.cache
def _pitch_tables():
    window = np.hanning(402)[1:-1]
    pitches = 60.0 * 2 ** (np.arange(72) / 30.0)  # 60 to 309 Hz in steps of 1/30 octave
    waves = np.cos(2 * np.pi * spread(513)[:, None] / pitches)
    own = np.abs(np.fft.rfft(window, 1024)) ** 2
    steps = np.arange(72)
    jumps = np.minimum(np.abs(steps[:, None] - steps[None]) * 0.02, 0.5)
    return window, pitches, waves, (own @ waves) / own.sum(), jumps


def pitch_and_voicing(wave):
    """Return the pitch [FRAMES] in Hz and the periodic share [FRAMES, PERIODIC] in [0, 1] of `wave [SAMPLES]`.

    The best path through the normalized autocorrelation of each frame (Boersma 1993), then a smooth curve with KNOTS values
    through the voiced frames.
    """
    window, pitches, waves, own, jumps = _pitch_tables()
    power = np.abs(np.fft.rfft(frames_of(wave, 400) * window, 1024)) ** 2
    energy = power.sum(1)
    audible = energy > 1e-3 * energy.max()
    low = power * (spread(513) < 1500)
    score = (low @ waves) / (low.sum(1, keepdims=True) + 1e-12) / own + 0.03 * np.log2(pitches / 60)
    score = score * audible[:, None]
    best, back = score[0], []
    for row in score[1:]:
        paths = best[:, None] - jumps
        back.append(paths.argmax(0))
        best = paths.max(0) + row
    path = [int(best.argmax())]
    for step in reversed(back):
        path.append(int(step[path[-1]]))
    steps = np.array(path[::-1])
    weight = np.clip(2 * score[np.arange(FRAMES), steps] - 1, 0, 1) * np.sqrt(energy / energy.max())
    basis = knot_matrix()
    bend, slope = np.diff(np.eye(KNOTS), 2, axis=0), np.diff(np.eye(KNOTS), axis=0)
    left = basis.T * weight @ basis + 0.05 * bend.T @ bend + 0.05 * slope.T @ slope
    curve = basis @ np.linalg.solve(left + 1e-9 * np.eye(KNOTS), basis.T @ (weight * np.log2(pitches[steps])))
    pitch = np.clip(2**curve, PITCH / 2**OCTAVES, PITCH * 2**OCTAVES)
    shares = np.zeros((FRAMES, PERIODIC))
    bands = np.repeat(np.eye(PERIODIC), 128, axis=0)
    bands = np.concatenate([bands, bands[-1:]])
    of_window = np.abs(np.fft.rfft(window, 1024)) ** 2
    for factor in (0.96, 0.98, 1.0, 1.02, 1.04):
        ripple = np.cos(2 * np.pi * spread(513)[None] / (pitch * factor)[:, None])
        share = ((power * ripple) @ bands) / (power @ bands + 1e-12) / ((of_window * ripple).sum(1) / of_window.sum())[:, None]
        shares = np.maximum(shares, share)
    shares = np.clip((shares - 0.2) / 0.7, 0, 1) * audible[:, None]
    shares = np.pad(shares, ((1, 1), (0, 0)), mode="edge")
    return pitch, (shares[:-2] + 2 * shares[1:-1] + shares[2:]) / 4


def envelope(wave, pitch):
    """Return the log power [FRAMES, BANDS] of the spectral envelope.

    As in CheapTrick (Morise 2015): windows of three periods, and a mean as wide as the pitch, which hides the harmonics.
    """
    time = np.arange(512) - 255.5
    half = 1.5 * RATE / pitch[:, None]
    window = np.where(np.abs(time) < half, 0.5 + 0.5 * np.cos(np.pi * time / half), 0)
    power = np.abs(np.fft.rfft(frames_of(wave, 512) * window)) ** 2 / np.square(window).sum(1, keepdims=True)
    mirrored = np.concatenate([power[:, 40:0:-1], power, power[:, -2:-42:-1]], axis=1)
    summed = np.concatenate([np.zeros((FRAMES, 1)), np.cumsum(mirrored, axis=1)], axis=1)
    width = pitch * 512 / RATE
    smooth = np.empty_like(power)
    for i, row in enumerate(summed):
        edges = np.arange(257) + 40.5
        ends = np.interp(np.concatenate([edges - width[i] / 2, edges + width[i] / 2]), np.arange(len(row)), row)
        smooth[i] = (ends[257:] - ends[:257]) / width[i]
    return np.log(smooth @ mel_filters(BANDS, 257) + np.exp(FLOOR))


def analysed(wave):
    """Return the parameters float32 [FRAMES, PARAMETERS] of `wave [SAMPLES]`."""
    pitch, periodic = pitch_and_voicing(wave)
    log_power = np.clip(envelope(wave, pitch), FLOOR, CEILING)
    parts = [2 * (log_power - FLOOR) / (CEILING - FLOOR) - 1, 2 * periodic - 1, np.log2(pitch / PITCH)[:, None] / OCTAVES]
    return np.concatenate(parts, axis=1).astype("float32")


class Synthesis(keras.layers.Layer):
    """`parameters [B, FRAMES, PARAMETERS] -> wave [B, SAMPLES]` in [-1, 1], by products with fixed matrices."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        bins = FFT // 2 + 1
        frequency = spread(bins)
        self.before = np.tri(FRAMES + 1, k=-1, dtype="float32").T  # sums the turns of all earlier blocks
        self.time = np.arange(HOP, dtype="float32")
        window = np.hanning(WINDOW + 1)[:-1]
        turns = np.outer(np.arange(WINDOW), np.arange(bins)) / FFT
        transform = np.concatenate([np.cos(2 * np.pi * turns), -np.sin(2 * np.pi * turns)], axis=1) * window[:, None]
        flat = np.exp(frequency**2 / (2 * PULSE_WIDTH**2)) * (frequency > 30)
        self.of_pulses = (transform * np.concatenate([flat, flat])).astype("float32")
        noise = np.random.default_rng(0).standard_normal(SAMPLES + HOP)
        noise = noise.reshape(FRAMES + 1, HOP)
        self.noise = (np.concatenate([noise[:-1], noise[1:]], axis=1) @ transform).astype("float32")
        self.to_bins = linear(to_mel(frequency), to_mel(mel_edges(BANDS)[1:-1])).T.astype("float32")  # [BANDS, bins]
        middles = RATE / 2 * (np.arange(PERIODIC) + 0.5) / PERIODIC
        self.shares_to_bins = linear(frequency, middles).T.astype("float32")
        # Minimum phase: the Hilbert transform of the log amplitude, by folding its cepstrum (Oppenheim and Schafer 1975).
        symmetric = np.concatenate([np.eye(bins), np.eye(bins)[:, -2:0:-1]], axis=1)
        cepstrum = np.fft.ifft(symmetric, axis=1).real
        fold = np.zeros(FFT)
        fold[1 : FFT // 2] = 1
        fold[FFT // 2 + 1 :] = -1
        phase = np.fft.fft(cepstrum * fold, axis=1).imag[:, :bins]
        self.to_phase = (self.to_bins @ phase).astype("float32")
        twice = np.where((np.arange(bins) == 0) | (np.arange(bins) == FFT // 2), 1.0, 2.0)[:, None] / FFT
        turns = np.outer(np.arange(bins), np.arange(FFT)) / FFT
        back = np.concatenate([np.cos(2 * np.pi * turns) * twice, -np.sin(2 * np.pi * turns) * twice])
        self.back = back.astype("float32")
        self.built = True

    def pulses(self, log_pitch):
        """Return pulses [B, FRAMES + 1, HOP] of unit power in each Hz, at the pitch PITCH * 2 ** log_pitch [B, FRAMES].

        The blocks begin half a block before the first sample; the pitch is linear between the middles of the frames.
        """
        pitch = PITCH * ops.exp(float(np.log(2)) * log_pitch)
        pitch = ops.concatenate([pitch[:, :1], pitch, pitch[:, -1:]], axis=1)
        start, step = pitch[:, :-1, None], ops.expand_dims(pitch[:, 1:] - pitch[:, :-1], -1)
        base = ops.matmul((pitch[:, :-1] + pitch[:, 1:]) * (HOP / 2), self.before)
        turns = (base[..., None] + start * self.time + step * (self.time**2 / (2 * HOP))) / RATE
        pitch = start + step * (self.time / HOP)
        pulse = ops.exp(ops.square(PULSE_WIDTH / pitch) * (ops.cos(2 * np.pi * turns) - 1))
        return pulse * ops.rsqrt(pitch) * float(PULSE_WIDTH * np.sqrt(2 * np.pi / RATE))

    def call(self, parameters):
        log_amplitude = (parameters[..., :BANDS] + 1) * ((CEILING - FLOOR) / 4) + FLOOR / 2
        share = ops.matmul((parameters[..., BANDS:-1] + 1) / 2, self.shares_to_bins)
        blocks = self.pulses(parameters[..., -1] * OCTAVES)
        periodic = ops.matmul(ops.concatenate([blocks[:, :-1], blocks[:, 1:]], axis=-1), self.of_pulses)
        two = lambda x: ops.concatenate([x, x], axis=-1)  # noqa: E731
        source = periodic * two(ops.sqrt(share + 1e-4)) + self.noise * two(ops.sqrt(1.0001 - share))
        amplitude = ops.exp(ops.matmul(log_amplitude, self.to_bins)) - float(0.9 * np.exp(FLOOR / 2))
        phase = ops.matmul(log_amplitude, self.to_phase)
        cos, sin = amplitude * ops.cos(phase), amplitude * ops.sin(phase)
        real, imaginary = ops.split(source, 2, axis=-1)
        filtered = ops.concatenate([real * cos - imaginary * sin, real * sin + imaginary * cos], axis=-1)
        out = ops.reshape(ops.matmul(filtered, self.back), (-1, FRAMES, FFT // HOP, HOP))
        parts = FFT // HOP
        blocks = sum(ops.pad(out[:, :, k], [[0, 0], [k, parts - 1 - k], [0, 0]]) for k in range(parts))
        wave = ops.reshape(blocks, (-1, (FRAMES + parts - 1) * HOP))[:, HOP // 2 : HOP // 2 + SAMPLES]
        return ops.tanh(wave)
