"""Trains and exports the models of saved_models/actions/: generator, classifier and judge of clips; resumes if interrupted.

    python -m tools.train.train_actions --data=CLIPS --work=DIR [--stages=autoencoder,flow] [--out=FOLDER] [--licence=...]

CLIPS is a folder or .tar of film strips, see clips.py. DIR keeps checkpoints, logs and images. The stages: `teacher`, `judge`
and `classifier` learn real clips; `autoencoder`, `flow` and `sharpening` make the generator; `consensus` trains the classifier
on with generated clips that it and the teacher label. `--stages` runs these alone, and exports nothing.
"""

import functools
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from tfgradgen.core.checks import check_real
from tools.command import run
from tools.train import clips
from tools.train.clip_generator import CODE, LATENT, TURNS, Critic, Decoder, Encoder, Flow, Generator
from tools.train.clip_lessons import NATS, codes, sharpen, train_autoencoder, train_flow
from tools.train.clip_networks import RECOGNISERS
from tools.train.clip_training import built, drawn, train_consensus, train_recogniser
from tools.train.export import export, write_card

STEPS = {
    "teacher": 400,
    "judge": 300,
    "classifier": 300,
    "autoencoder": 2500,
    "flow": 8000,
    "sharpening": 600,
    "consensus": 200,
}
CODES, DRAWS = 4000, 3000
BY_HALVES = 1000  # variables with at least so many numbers are stored in 16 bits
RECORDED = f"frames of 64 x 64 pixels, 16 a clip, every {clips.STRIDE}rd of the 25 a second that were recorded"
SHARED = {"kind": "video", "frame_rate": round(clips.RATE, 4), "image_range": [-1, 1]}
LICENCE = """Trained on the Weizmann action database (Gorelick, Blank, Shechtman, Irani and Basri, "Actions as Space-Time
Shapes", 2007), which is for research use; no clip of it is distributed here."""
BUILT = {
    "generator": """An autoencoder in Keras 3 (`tools/train/clip_generator.py`), trained by
`python -m tools.train.train_actions` on windows of the strips of eight performers, as they are and mirrored, and slightly
recoloured. One part of the decoder draws the wall once a clip, the other one the performer in each frame: a mask and colours.
The losses: weighted absolute error, error of changes in time and of edges, and {nats:g} times the divergence of the codes from
the normal distribution; {autoencoder:,} steps of 16 clips. A flow (flow matching with optimal pairing in each batch, {flow:,}
steps) maps z to codes: {turns} midpoint steps, which are part of the exported graph. Then the decoder alone was trained for
{sharpening:,} more steps, also against a critic of pairs of frames, on reconstructions and prior draws. EMA of the weights.
The training does not use the names of the actions.""",
    "classifier": """A small convolutional network (`Guide` in `tools/train/clip_networks.py`) on frames and changes between
frames, at 32 pixels, then over time; smooth units. First {classifier:,} steps of 24 real clips (mirror, shift, zoom, speed,
colours, noise), a quarter of them spoiled for "other": still, shuffled, mixed, noise. Then {consensus:,} steps with
{draws:,} prior draws of the generator, whose target is p(action) of this network times that of a teacher, and the rest
"other". The teacher is another network that saw real clips alone; it is not distributed. At export, batch normalization is
folded into the convolutions.""",
    "judge": """A network of another kind (`Judge` in `tools/train/clip_networks.py`): brightness of the frames and its changes
as channels of one image; ReLU and max-pooling; its own seed; {judge:,} steps of 24 real clips, a quarter of them spoiled for
"other": still, shuffled, mixed, noise. It never saw a generated clip, and no sampler uses it. At export, batch normalization
is folded into the convolutions.""",
}


class Halves:
    """The network as it is exported: large variables are stored in 16 bits and cast where they are used."""

    def __init__(self, network):
        self.network = network
        self.variables = [
            keras.Variable(v, dtype="float16" if int(np.prod(v.shape)) >= BY_HALVES else "float32", trainable=False)
            for v in network.variables
        ]

    def of(self, fn):
        """Return `fn`, which reads the network's variables, with the stored ones instead."""

        def run(x):
            stored = [(own, tf.cast(v.value, own.dtype)) for own, v in zip(self.network.variables, self.variables, strict=True)]
            with keras.StatelessScope(state_mapping=stored):
                return fn(x)

        return run


class Stages:
    """The stages of the training, each done once; a stage first does those that it needs.

    Args:
      data: Folder or .tar of strips.
      work: Folder of checkpoints, logs and images.
      width: Factor of all numbers of channels.
      share: Factor of the numbers of steps, codes and draws.
    """

    def __init__(self, data, work, width=1.0, share=1.0):
        self.work = Path(work)
        self.width, self.share = check_real("width", width, 0.0), check_real("share", share, 0.0)
        self.strips, self.held_out = clips.load(data, "train"), clips.load(data, "val")

    def number(self, full):
        return max(2, round(self.share * full))

    def network(self, role):
        return RECOGNISERS[role](len(clips.ACTIONS) + 1, self.width)

    def recogniser(self, role):
        steps = self.number(STEPS[role])
        return train_recogniser(self.network(role), role, self.strips, self.held_out, self.work, steps)

    teacher = functools.cached_property(lambda self: self.recogniser("teacher"))
    judge = functools.cached_property(lambda self: self.recogniser("judge"))
    classifier = functools.cached_property(lambda self: self.recogniser("classifier"))

    @functools.cached_property
    def autoencoder(self):
        encoder, decoder = Encoder(self.width), Decoder(self.width)
        train_autoencoder(encoder, decoder, self.strips, self.work, self.number(STEPS["autoencoder"]))
        seen = clips.Windows(self.strips).batch(8, 1, 1)[0]
        self.show("autoencoder", np.stack([seen, clips.as_pixels(decoder(encoder(clips.as_clip(seen))[0]))], 1))
        return encoder, decoder

    @functools.cached_property
    def flow(self):
        flow = Flow(self.width)
        flow(tf.zeros([1, CODE]), tf.zeros([1, 1]))
        means, deviations = codes(self.autoencoder[0], self.strips, self.number(CODES))
        train_flow(flow, means, deviations, self.work, self.number(STEPS["flow"]))
        self.show("flow", drawn(Generator(flow, self.autoencoder[1]), 24, 1))
        return flow

    @functools.cached_property
    def sharpening(self):
        generator = Generator(self.flow, self.autoencoder[1])
        sharpen(self.autoencoder[0], generator, Critic(self.width), self.strips, self.work, self.number(STEPS["sharpening"]))
        self.show("sharpening", drawn(generator, 24, 1))
        return generator

    @functools.cached_property
    def consensus(self):
        network, teachers = built(self.network("classifier")), (self.teacher, self.classifier)
        for own, first in zip(network.variables, self.classifier.variables, strict=True):
            own.assign(first)
        steps, draws = self.number(STEPS["consensus"]), self.number(DRAWS)
        return train_consensus(network, teachers, self.sharpening, self.strips, self.held_out, self.work, steps, draws)

    def show(self, name, pixels):
        """Write uint8 clips [..., 16, H, W, 3] as an image, a row a clip."""
        Image.fromarray(clips.as_strips(pixels.reshape(-1, *pixels.shape[-4:]))).save(self.work / f"{name}.png")


def publish(stages, out, licence):
    """Export the three models with their cards; check_clips.py adds the measured numbers."""
    out, numbers = Path(out), {name: stages.number(steps) for name, steps in STEPS.items()}
    labels = [{"name": name} for name in clips.ACTIONS] + [{"name": "other", "background": True}]
    shape = (clips.FRAMES, clips.SIZE, clips.SIZE, 3)
    said = "[B, 16, 64, 64, 3]"
    half = Halves(stages.sharpening)
    metadata = SHARED | {"latent_dim": LATENT, "prior": "normal"}
    export(half, half.of(stages.sharpening), (LATENT,), out / "generator", metadata)
    interfaces = {
        "generator": {
            "signature": f"callable, and `serving_default`: `input` float32 [B, {LATENT}] (z) -> clip float32 {said}",
            "prior": "z ~ Normal(0, I)",
        }
    }
    for role, trained in (("classifier", stages.consensus), ("judge", stages.judge)):
        network = trained.compact()
        half = Halves(network)
        export(
            half,
            half.of(network),
            shape,
            out / role,
            SHARED | {"output": "logits", "labels": labels},
            {"features": half.of(network.features)},
        )
        interfaces[role] = {
            "signature": f"callable, and `serving_default`: `input` float32 {said} -> logits float32 [B, {len(labels)}]",
            "further signature": "`features`: the same input -> float32 [B, F], what the last layer reads",
            "classes": ", ".join((*clips.ACTIONS, "other")),
        }
    shared = {"clips": RECORDED + f": {clips.RATE:.2f} a second, so that a clip shows most of a bend", "range": "[-1, 1], RGB"}
    for role, interface in interfaces.items():
        text = BUILT[role].format(nats=NATS, turns=TURNS, draws=stages.number(DRAWS), **numbers)
        write_card(out / role, f"{role.capitalize()} of actions", interface | shared, text, licence)
    print(f"exported to {out}; python -m tools.cards.check_clips --write measures the cards")


def main(data, work, stages=None, out="saved_models/actions", licence=LICENCE, width=1.0, share=1.0):
    """Train all stages and export, or train `stages` alone; `width` and `share` make networks and training smaller."""
    every = Stages(data, work, width, share)
    if stages is None:
        publish(every, out, licence)
        return
    for name in [stages] if isinstance(stages, str) else stages:
        if name not in STEPS:
            raise SystemExit(f"stages: expected some of {', '.join(STEPS)}, got {name!r}; give some of these.")
        getattr(every, name)


if __name__ == "__main__":
    run(main)
