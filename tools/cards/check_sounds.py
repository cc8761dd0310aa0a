"""Measures all numbers in the cards of saved_models/speech/ again, and fails if one has changed.

    python -m tools.cards.check_sounds --data=RECORDINGS [--models=saved_models/speech] [--sheet=FILE.png] [--write]

RECORDINGS is a folder or .tar with `train/<word>/<speaker>_<nn>.wav` and `val/...`. `--write` first writes the numbers into the
cards. `--sheet` draws spectrograms of exact draws below those of held-out recordings, one column for each word.
"""

import functools
from pathlib import Path

import numpy as np

from tools.command import run

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("generator", "classifier", "judge")
MAX_MEGABYTES = 8
NUM_DRAWS, SEED, BATCH = 4000, 11, 100
OTHERS_SEED, NUM_OTHERS = 12, 300
REMARKS = {
    "generator": """An exact draw is a prior draw that is kept with probability p(word), as in rejection sampling. Log-spectral
distances are root mean squares over the bands of a log mel spectrogram, in dB, where white noise at -50 dB of full scale is
added to both sides. "The vocoder" is the sound of a recording's own source and filter, without the generator.""",
    "classifier": """Temperature and the weight of "other" are fitted to draws of the generator. Sounds that are no word are
made from held-out recordings: reversed, cut, shuffled, mixed; and noise and tones.""",
    "judge": """Temperature and the weight of "other" are fitted on the held-out recordings. Sounds that are no word are
made from held-out recordings: reversed, cut, shuffled, mixed; and noise and tones.""",
}


def in_batches(fn, *arrays):
    """Return `fn` of BATCH rows of `arrays` at a time, as one array."""
    return np.concatenate([np.asarray(fn(*(a[i : i + BATCH] for a in arrays))) for i in range(0, len(arrays[0]), BATCH)])


class Evidence:
    """The models in `folder`, the recordings `data`, and prior draws, each computed once on demand."""

    def __init__(self, folder, data):
        from tfgradgen.models.classifier import load_classifier
        from tfgradgen.models.generator import load_generator
        from tools.train import sounds

        self.folder = Path(folder)
        self.generator = load_generator(self.folder / "generator")
        self.classifiers = {name: load_classifier(self.folder / name) for name in NAMES if name != "generator"}
        self.names = tuple(label.name for label in self.classifiers["classifier"].labels if not label.background)
        self.waves, self.labels, _ = sounds.load(data, "val", self.names)
        self.others = sounds.not_words(np.random.default_rng(OTHERS_SEED), self.waves, NUM_OTHERS)
        self.z = np.random.default_rng(SEED).standard_normal((NUM_DRAWS, self.generator.latent_dim)).astype("float32")

    @functools.cached_property
    def draws(self):
        return in_batches(self.generator, self.z)

    @functools.cached_property
    def vocoded(self):
        """The held-out recordings after analysis and synthesis."""
        from tools.train.source_filter import Synthesis, analysed

        return in_batches(Synthesis(), np.stack([analysed(wave) for wave in self.waves]))

    @functools.cache  # noqa: B019 - one object a process
    def log_probs(self, name, source):
        """Return log p(class | sound) [N, classes] of the sounds of the attribute `source`."""
        from scipy.special import log_softmax

        return log_softmax(in_batches(self.classifiers[name], getattr(self, source)), axis=1)

    @functools.cache  # noqa: B019
    def features(self, name, source):
        signature = self.classifiers[name].module.signatures["features"]
        return in_batches(lambda x: next(iter(signature(input=x).values())), getattr(self, source))

    @functools.cache  # noqa: B019
    def spectra(self, source):
        """Return log mel spectrograms in dB, [N, frames, bands]."""
        from tools.train.sound_networks import LogMel

        front = LogMel()
        scale = 30 / np.log(10)  # three nepers of power in dB: what the front end divides by
        return in_batches(lambda x: front(x)[..., 0], getattr(self, source)) * scale


def size(evidence, name, input_shape):
    """Return cost, size and sha256 of a model."""
    from tools.cards.figures import files

    model = evidence.generator if name == "generator" else evidence.classifiers[name]
    return files(model, evidence.folder / name, input_shape, "sound")


def classifier_figures(evidence, name):
    """Return the figures of the classifier or of the judge on held-out recordings."""
    from tools.cards.figures import Figure, by_class, calibration

    log_probs, labels, num = evidence.log_probs(name, "waves"), evidence.labels, len(evidence.names)
    probs = np.exp(log_probs)
    right = probs.argmax(1) == labels
    others = evidence.log_probs(name, "others").argmax(1) == num
    return size(evidence, name, evidence.waves.shape[1:]) | {
        f"top-1 accuracy on {len(labels)} held-out recordings": Figure(f"{right.mean():.3f}"),
        "accuracy there by word": Figure(by_class(evidence.names, [right[labels == c].mean() for c in range(num)]), 0.04),
        f'share of {len(others)} held-out sounds that are no word that it calls "other"': Figure(f"{others.mean():.3f}", 0.01),
        **calibration(log_probs, labels, "on the recordings"),
    }


def generator_figures(evidence):
    """Return the figures of the generator, with the judge in place of a human."""
    from tfgradgen.evaluation.distances import density_and_coverage, kid
    from tools.cards.figures import Figure, agreement, by_class

    probs, names = np.exp(evidence.log_probs("classifier", "draws")), evidence.names
    verdict = evidence.log_probs("judge", "draws").argmax(1)
    agreed = agreement(probs, verdict, len(names))
    vocoded = evidence.log_probs("judge", "vocoded").argmax(1) == evidence.labels
    scale = 1 / np.sqrt(np.mean(evidence.features("judge", "waves") ** 2))
    drawn, recorded, again = (evidence.features("judge", source) * scale for source in ("draws", "waves", "vocoded"))
    density, coverage = density_and_coverage(drawn[: len(recorded)], recorded)
    level = lambda difference: float(np.sqrt(np.mean(np.square(difference))))  # noqa: E731
    spectrum, spectra = evidence.spectra("waves"), evidence.spectra("draws")
    own = [spectrum[evidence.labels == c].mean((0, 1)) for c in range(len(names))]
    exact = [np.average(spectra.mean(1), axis=0, weights=probs[:, c]) for c in range(len(names))]
    return size(evidence, "generator", evidence.z.shape[1:]) | {
        f"mean p(word) over {NUM_DRAWS} prior draws": Figure(by_class(names, probs.mean(0)[: len(names)], 3), 0.003),
        "judge's agreement with exact draws": Figure(by_class(names, agreed), 0.02),
        "judge's agreement with exact draws, mean over words": Figure(f"{np.mean(agreed):.3f}", 0.01),
        f"KID of the prior draws to {len(recorded)} held-out recordings, judge's features": Figure(
            f"{kid(drawn, recorded):.4f} (the recordings through the vocoder: {kid(again, recorded):.4f})", 0.002
        ),
        "density and coverage of as many draws, judge's features, 5 neighbours": Figure(f"{density:.2f}, {coverage:.2f}", 0.02),
        "log-spectral distance of the mean spectrum of a word's exact draws to that of its recordings, mean over words": Figure(
            f"{np.mean([level(a - b) for a, b in zip(own, exact, strict=True)]):.1f} dB", 0.1
        ),
        "log-spectral distance of the vocoder to the recordings": Figure(
            f"{level(evidence.spectra('vocoded') - spectrum):.1f} dB", 0.1
        ),
        "judge's accuracy on the held-out recordings through the vocoder": Figure(f"{vocoded.mean():.3f}"),
        "share of samples of the draws beyond 0.95": Figure(f"{np.mean(np.abs(evidence.draws) > 0.95):.5f}", 0.0005),
    }


def save_sheet(evidence, path, rows=3):
    """Draw spectrograms of `rows` held-out recordings and of as many exact draws of each word as a PNG."""
    from PIL import Image

    rng, probs = np.random.default_rng(0), np.exp(evidence.log_probs("classifier", "draws"))
    columns = []
    for c in range(len(evidence.names)):
        real = rng.choice(np.flatnonzero(evidence.labels == c), rows, replace=False)
        exact = rng.choice(len(probs), rows, replace=False, p=probs[:, c] / probs[:, c].sum())
        tiles = [*evidence.spectra("waves")[real], *evidence.spectra("draws")[exact]]
        columns.append(np.concatenate([np.pad(tile.T[::-1], 2, constant_values=20) for tile in tiles]))
    sheet = np.concatenate(columns, axis=1)
    image = Image.fromarray(np.clip((sheet + 24) * 4.6, 0, 255).astype("uint8"))
    image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(path)


def main(data, models=str(ROOT / "saved_models" / "speech"), sheet=None, write=False):
    """Measure the cards; exit with 1 and one line for each number that has changed."""
    from tfgradgen.core.quiet import start_tensorflow

    start_tensorflow()
    from tools.cards.check_models import differences
    from tools.cards.figures import conclude
    from tools.train.export import read_measured, write_measured

    evidence, off = Evidence(models, data), []
    for name in NAMES:
        measured = generator_figures(evidence) if name == "generator" else classifier_figures(evidence, name)
        for what, figure in measured.items():
            print(f"{name}: {what}: {figure.text}", flush=True)
        if write:
            write_measured(evidence.folder / name, {what: figure.text for what, figure in measured.items()}, REMARKS[name])
        off += [f"{name}: {line}" for line in differences(read_measured(evidence.folder / name), measured)]
    if sheet:
        save_sheet(evidence, sheet)
    conclude(off, evidence.folder, {tuple(NAMES): MAX_MEGABYTES})


if __name__ == "__main__":
    run(main)
