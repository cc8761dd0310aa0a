"""An appearance model of spoken words (Cootes et al. 1998), fitted to the source-filter parameters of recordings in NumPy.

Each recording is a course through the word's own time (`clock`) and what is heard at each moment of it (`looks`). Means of each
(word, speaker) and the principal directions of each word's differences from them make new ones.
"""

import numpy as np

from tools.train.source_filter import BANDS, FRAMES, PARAMETERS

FIRST, LAST = 10, 53  # where a word begins and ends in its own time, of FRAMES moments
REACH = 8  # moments by which the alignment may differ from a linear one
LOUD = 0.35  # share of the range of loudness from which a frame belongs to the word
# Weights of the periodic share, the pitch and the clock in the principal directions, where that of the spectrum is 1.
SHARE_WEIGHT, PITCH_WEIGHT, CLOCK_WEIGHT = 0.3, 1.0, 0.15
SHRINKAGE = 0.8  # factor of the differences from the means, because principal coefficients of few recordings are not normal


def linear_clock(parameters):
    """Return the clock [FRAMES] that runs linearly from FIRST to LAST over the loud part of [FRAMES, PARAMETERS]."""
    level = parameters[:, :BANDS].mean(1)
    loud = np.flatnonzero(level > level.min() + LOUD * (level.max() - level.min()))
    start, end = loud[0], max(loud[-1], loud[0] + 8)
    return FIRST + (np.arange(FRAMES) - start) * (LAST - FIRST) / (end - start)


def looks_of(parameters, clock):
    """Return what is heard at each moment of the clock, [FRAMES, PARAMETERS]; before and after the recording its ends."""
    clock = np.maximum.accumulate(clock + 1e-6 * np.arange(FRAMES))
    return np.stack([np.interp(np.arange(FRAMES), clock, row) for row in parameters.T], axis=1)


def heard(looks):
    """Return the features of an alignment: level-free spectra and their changes, [..., FRAMES, 2 BANDS]."""
    power = looks[..., :BANDS] - 0.5 * looks[..., :BANDS].max((-1, -2), keepdims=True)
    return np.concatenate([power, 2 * np.gradient(power, axis=-2)], axis=-1)


def aligned(looks, template):
    """Return the moments [N, FRAMES] of `template [FRAMES, PARAMETERS]` that match those of `looks [N, FRAMES, PARAMETERS]`.

    Dynamic time warping (Sakoe and Chiba 1978) whose slope is 0, 1 or 2, within REACH of the diagonal.
    """
    offsets = np.arange(-REACH, REACH + 1)
    target = heard(template)
    mine = heard(looks)
    slope_costs = {0: 0.15, 1: 0.0, 2: 0.15}
    total, back = np.zeros((len(looks), len(offsets))), []
    for moment in range(FRAMES):
        places = np.clip(moment + offsets, 0, FRAMES - 1)
        cost = np.abs(mine[:, moment, None] - target[places][None]).mean(2) + 1e3 * (moment + offsets != places)
        if moment == 0:
            total = cost + 0.02 * np.abs(offsets)
            continue
        # A slope of k moves the offset by k - 1.
        options = np.stack([np.roll(total, k - 1, axis=1) + price for k, price in slope_costs.items()])
        options[0, :, -1] = options[2, :, 0] = 1e6
        back.append(options.argmin(0))
        total = options.min(0) + cost
    rows, place = np.arange(len(looks)), (total + 0.02 * np.abs(offsets)).argmin(1)
    path = [place]
    for choice in reversed(back):
        place = place - (choice[rows, place] - 1)
        path.append(place)
    moments = np.arange(FRAMES) + np.stack(path[::-1], axis=1) - REACH
    padded = np.pad(moments.astype(float), ((0, 0), (2, 2)), mode="reflect", reflect_type="odd")
    return sum(padded[:, k : k + FRAMES] for k in range(5)) / 5


def align(parameters, rounds=3):
    """Return clocks [N, FRAMES] and looks [N, FRAMES, PARAMETERS] of the recordings of one word."""
    linear = np.stack([linear_clock(each) for each in parameters])
    straight = np.stack([looks_of(*pair) for pair in zip(parameters, linear, strict=True)])
    looks, clocks = straight, linear
    for _ in range(rounds):
        moments = aligned(straight, looks.mean(0))
        ends = lambda at, to: np.interp(at, np.arange(FRAMES), to) + np.minimum(at, 0) + np.maximum(at - FRAMES + 1, 0)  # noqa: E731
        clocks = np.stack([ends(*pair) for pair in zip(linear, moments, strict=True)])
        looks = np.stack([looks_of(*pair) for pair in zip(parameters, clocks, strict=True)])
    return clocks, looks


def weights():
    """Return the weight of each number of a joined vector [FRAMES * PARAMETERS + FRAMES]."""
    of_looks = np.concatenate([np.ones(BANDS), np.full(PARAMETERS - BANDS - 1, SHARE_WEIGHT), [PITCH_WEIGHT]])
    return np.concatenate([np.tile(of_looks, FRAMES), np.full(FRAMES, CLOCK_WEIGHT)])


def fit_appearance(parameters, words, speakers, content_dim, rank):
    """Fit the model.

    Args:
      parameters: float32 [N, FRAMES, PARAMETERS] of recordings.
      words: int [N].
      speakers: int [N]; each speaker has said each word.
      content_dim: Number of principal directions of each word.
      rank: Number of directions common to all words, of which those are combinations.

    Returns:
      `means [words, speakers, D]`, `directions [words, content_dim, rank]` and `basis [rank, D]`, float32, with
      D = FRAMES * PARAMETERS + FRAMES; looks come first, the clock last. A new word is a mean + content . directions . basis.
    """
    joined = np.empty((len(parameters), FRAMES * PARAMETERS + FRAMES))
    num_words, num_speakers = words.max() + 1, speakers.max() + 1
    for word in range(num_words):
        clocks, looks = align(parameters[words == word])
        clocks = np.clip(clocks, 0, FRAMES - 1)
        joined[words == word] = np.concatenate([looks.reshape(len(looks), -1), clocks], axis=1)
    joined *= weights()
    cells = words * num_speakers + speakers
    means = np.stack([joined[cells == cell].mean(0) for cell in range(num_words * num_speakers)])
    differences = joined - means[cells]
    basis = np.linalg.eigh(differences.T @ differences)[1][:, ::-1][:, :rank].T
    directions = np.zeros((num_words, content_dim, len(basis)))
    for word in range(num_words):
        inside = differences[words == word] @ basis.T
        _, scale, rows = np.linalg.svd(inside, full_matrices=False)
        free = max(1, len(inside) - num_speakers)
        kept = (rows * (SHRINKAGE * scale / np.sqrt(free))[:, None])[:content_dim]
        directions[word, : len(kept)] = kept
    means, basis = means.reshape(num_words, num_speakers, -1) / weights(), basis / weights()
    return {"means": means.astype("float32"), "directions": directions.astype("float32"), "basis": basis.astype("float32")}
