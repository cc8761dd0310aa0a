"""Texts as probabilities: a model that embeds texts and images turns a text into a classifier of images.

The embeddings are compared by their cosine c and a scale s, as in CLIP (Radford et al. 2021). Among the text and a set of
reference captions, the probability of the text is

    p(text | image) = exp(s c(image, text)) / (exp(s c(image, text)) + sum over captions of exp(s c(image, caption)))

It is at most 1, so rejection is exact for a text as for a class. The text is compared with the captions: with other captions,
p is another probability.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf

from tfgradgen.core.checks import check_real, fail
from tfgradgen.core.text import printable, value_text
from tfgradgen.models.classifier import Classifier, assemble
from tfgradgen.models.condition import ConditionClassifier
from tfgradgen.models.loading.allowed_ops import TEXT_OPS
from tfgradgen.models.loading.families import UNKNOWN, RoleSpec
from tfgradgen.models.loading.inputs import listed, shown
from tfgradgen.models.loading.metadata import file_of_model
from tfgradgen.models.loading.ranges import UNIT
from tfgradgen.models.loading.roles import BoundSignature, bind_signature
from tfgradgen.models.loading.saved_model import Opened, Signature, open_saved_model, reason_of
from tfgradgen.models.loading.settings import CHANNELS_FIRST, ClassifierSettings, settings_of, with_card
from tfgradgen.models.shipped import default_model
from tfgradgen.models.targets import with_text
from tfgradgen.models.tokens import Pairs, Words, caption_name, check_text, digest, read_captions, read_tokenizer, words_of

ROLE = "text model"
ENCODERS = {
    "text": ("encode_text", "get_text_features", "text_features", "text_encoder", "text"),
    "image": ("encode_image", "get_image_features", "image_features", "image_encoder", "image", "serving_default"),
}
OUTPUTS = ("embedding", "embeddings", "text_features", "text_embeds", "features", "default")
CLIP_SCALE, MAX_SCALE = 100.0, 1e4
MAX_TOKENS = 77  # of a text, if the signature does not say
MAX_DIM = 2**16
CARD = ("layout", "channels")
BATCH = 64  # texts in one call of an encoder
_SQUARE = 1e-12  # added to a squared length


@dataclass(frozen=True, eq=False)
class TextClassifier(Classifier):
    """The classifier of one text, from `TextModel.classifier`: class 1 is the text, class 0 that one of the captions fits.

    Attributes:
      text: The text.
      captions: The reference captions.
      settings: What decides its probability besides these and the files of the model: the scale, the mean and deviation of the
        channels, and the digest of the file of tokens.
    """

    text: str = ""
    captions: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, Any]:
        """What a run record says of the text."""
        return {
            "text": self.text,
            "sha256": self.sha256,
            "num_captions": len(self.captions),
            "captions_sha256": digest(self.captions),
            **self.settings,
        }

    def with_label(self, classifier: Any, label: Any) -> ConditionClassifier:
        """Return the condition that an image shows `label` of `classifier` and this text, too. It is class 1 of the result.

        Args:
          classifier: From `load_classifier`.
          label: A class or a condition on its classes.

        Raises:
          UserError: The classifier does not have the label, or `label` names several.
        """
        found = with_text([classifier], label, self)
        if len(found) != 1:
            raise fail("label", "one class or condition", f"{len(found)}", "make a classifier for each")
        return found[0]


@dataclass(frozen=True, eq=False)
class TextModel:
    """A model that embeds texts and images.

    Attributes:
      embed_fn: Texts, and their names for errors -> embeddings [num_texts, dim] float32 of length 1.
      classifier_fn: (text, captions, their embeddings [1 + num_captions, dim]) -> its `TextClassifier`.
      captions: The reference captions that come with the model.
      scale: Factor of the cosine.
      path: Where the model was loaded from.
      sha256: Digest of its files.
      module: The loaded SavedModel.
    """

    embed_fn: Callable[[Sequence[str], Sequence[str]], np.ndarray]
    classifier_fn: Callable[[str, tuple[str, ...], np.ndarray], TextClassifier]
    captions: tuple[str, ...]
    scale: float
    path: str
    sha256: str
    module: Any

    def classifier(self, text: str, captions: Sequence[str] | None = None) -> TextClassifier:
        """Return the classifier of a text.

        Args:
          text: What an image is to show, such as "a yellow bus on a dark road".
          captions: Reference captions, which the text is compared with; by default those of the model. The text is left out.

        Raises:
          UserError: The model does not know a word, the text is too long, or no caption is left.
        """
        text = check_text("text", text)
        given = self.captions if captions is None else tuple(check_text("captions", each) for each in captions)
        others = tuple(each for each in given if words_of(each) != words_of(text))
        if not others:
            raise fail("captions", "a caption other than the text", "none", "give some to compare the text with")
        names = ["text", *map(caption_name, others)]
        return self.classifier_fn(text, others, self.embed_fn([text, *others], names))


def load_text_model(
    path: str | Path | None = None,
    *,
    image_range: tuple[float, float] | None = None,
    image_size: tuple[int, int] | None = None,
    layout: str | None = None,
    tags: tuple[str, ...] | None = None,
    allow_unknown_ops: bool = False,
    **unknown: NoReturn,
) -> TextModel:
    """Load a model with two signatures, `encode_text` and `encode_image`, such as CLIP.

    Texts go in as strings [B] or as numbers of tokens [B, T]; then model.json names a file of tokens (`models.tokens`). It also
    gives `scale` (100 by default, CLIP's), `captions` (a file of reference captions), `image_range`, or `mean` and `deviation`
    of the channels in [0, 1], and `text_signature` and `image_signature` if the signatures have other names.

    Args:
      path: A folder with saved_model.pb or an archive of one, a TF-Hub URL or a Kaggle Models handle, in TF2 or TF1-hub
        format. By default the text model that comes with the package.
      image_range: (low, high) of the model's input.
      image_size: (height, width) of the model's input.
      layout: Order of the axes of the model's input, 'channels_last' or 'channels_first'.
      tags: Tags of the meta graph to load.
      allow_unknown_ops: Whether to load a model with ops that are not on the list of allowed ones.

    Raises:
      UserError: The model does not load or lacks an encoder, its embeddings differ in width, an entry of its model.json is
        invalid, or an argument is unknown.
    """
    settings = {name: value for name, value in locals().items() if name not in ("path", "unknown")}
    given = settings_of(ClassifierSettings, settings | unknown)
    path = default_model("text") if path is None else path
    opened = open_saved_model(path, given.tags, "", given.allow_unknown_ops, TEXT_OPS)
    card, where = opened.metadata, opened.handle
    given = with_card(given, card, CARD, where)
    text_name, text_output = _signature(opened, "text")
    name, output = _signature(opened, "image")
    image = bind_signature(opened, ROLE, UNKNOWN, ClassifierSettings(signature=f"{name}:{output}" if output else name))
    scale = check_real(f"model {where} scale", card.get("scale", CLIP_SCALE), 0.0, MAX_SCALE, inclusive_high=True)
    normalized = _normalization(card, where)
    use = RoleSpec(image_range=UNIT, is_known=False) if normalized else UNKNOWN
    assumed = [] if "scale" in card else ["scale"]
    tokenizer = read_tokenizer(opened.folder, card, where)
    embed_fn = _embedder(opened, text_name, text_output, tokenizer)
    said: dict[str, Any] = {"scale": scale, **{name: card[name] for name in ("mean", "deviation") if normalized}}
    said |= {"tokens_sha256": tokenizer.sha256} if tokenizer else {}

    def classifier_fn(text: str, captions: tuple[str, ...], rows: np.ndarray) -> TextClassifier:
        logits_fn = partial(_logits, image, normalized, given.layout, scale, rows, where)
        whole = ClassifierSettings(**{**given.__dict__, "labels": _labels(text), "output": "logits"})
        found = assemble(opened, whole, use, image._replace(fn=logits_fn), assumed)
        own = {each.name: getattr(found, each.name) for each in fields(Classifier)}
        return TextClassifier(**own, text=text, captions=captions, settings=said)

    return TextModel(embed_fn, classifier_fn, _own_captions(opened), scale, where, opened.sha256, opened.module)


def _labels(text: str) -> list[dict[str, Any]]:
    return [{"name": f"not ({text})", "background": True}, {"name": text}]


def _logits(
    image: BoundSignature,
    normalized: tuple[np.ndarray, np.ndarray] | None,
    layout: str | None,
    scale: float,
    rows: np.ndarray,
    where: str,
    inputs: Mapping[str, Any],
) -> tf.Tensor:
    """Return [B, 2], of the captions and of the text, whose embedding is the first of `rows` [1 + num_captions, dim]."""
    pixels = inputs[image.main]
    if normalized:
        mean, deviation = (each[:, None, None] if layout == CHANNELS_FIRST else each for each in normalized)
        pixels = (pixels - mean) / deviation
    found = tf.cast(image.fn({image.main: pixels}), tf.float32)
    if not found.shape.is_compatible_with([None, rows.shape[1]]):
        expected = f"embeddings of images [batch, {rows.shape[1]}], as wide as those of texts"
        raise fail(f"model {where}", expected, f"shape {found.shape}", "name the right signatures in its model.json")
    found = tf.ensure_shape(found, [None, rows.shape[1]])
    unit = found * tf.math.rsqrt(tf.reduce_sum(tf.square(found), 1, keepdims=True) + _SQUARE)
    scores = scale * tf.matmul(unit, rows, transpose_b=True)
    return tf.stack([tf.reduce_logsumexp(scores[:, 1:], 1), scores[:, 0]], 1)


def _normalization(card: Mapping[str, Any], where: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Return mean and deviation of the channels, float32 [channels], from a model.json; None if it gives none."""
    if "mean" not in card and "deviation" not in card:
        return None
    found = []
    for name, low in (("mean", -1e3), ("deviation", 1e-6)):
        values = card.get(name)
        if not isinstance(values, list) or not 1 <= len(values) <= 4:
            raise fail(f"model {where} {name}", "a number for each channel", value_text(values), "give mean and deviation")
        found.append(np.array([check_real(f"model {where} {name}", x, low, 1e3, True) for x in values], np.float32))
    if len(found[0]) != len(found[1]):
        raise fail(f"model {where} deviation", f"{len(found[0])} numbers, as mean has", len(found[1]), "correct its model.json")
    return found[0], found[1]


def _own_captions(opened: Opened) -> tuple[str, ...]:
    """Return the captions that a model.json names, else those of the shipped text model."""
    name = opened.metadata.get("captions")
    if name is None:
        return read_captions(default_model("text") / "assets" / "captions.txt")
    expected, remedy = "the name of a file in the model's folder", "correct its model.json"
    return read_captions(file_of_model(opened.folder, name, f"captions of {opened.handle}", expected, remedy), opened.folder)


def _signature(opened: Opened, kind: str) -> tuple[str, str]:
    """Return name and output ('' for the only one) of the encoder of texts or of images.

    Raises:
      UserError: There is none, or several fit.
    """
    wanted = opened.metadata.get(f"{kind}_signature", "")
    name, _, output = wanted.partition(":")
    fits = _takes_texts if kind == "text" else _takes_images
    known = [each for each in ENCODERS[kind] if each in opened.signatures and fits(opened.signatures[each])]
    fitting = known[:1] or [each for each, signature in opened.signatures.items() if fits(signature)]
    if wanted and (name not in opened.signatures or not fits(opened.signatures[name])):
        fitting = []
    elif wanted:
        fitting = [name]
    if len(fitting) != 1:
        takes = "strings [B] or tokens [B, T]" if kind == "text" else "images [B, height, width, channels]"
        got = f"signatures {', '.join(map(printable, opened.signatures)) or 'none'}"
        remedy = f"export it, or add {kind}_signature: NAME to its model.json"
        raise fail(f"model {opened.handle}", f"a signature encode_{kind} that takes {takes}", got, remedy)
    return fitting[0], output


def _is_text(spec: tf.TensorSpec) -> bool:
    rank = spec.shape.rank
    if spec.dtype == tf.string:
        return bool(rank == 1 or (rank == 2 and spec.shape[1] == 1))
    return bool(spec.dtype in (tf.int32, tf.int64) and rank == 2)


def _is_mask(name: str) -> bool:
    return "mask" in name.lower()


def _takes_texts(signature: Signature) -> bool:
    mains = [name for name in signature.inputs if not _is_mask(name)]
    return len(mains) == 1 and all(_is_text(spec) for spec in signature.inputs.values())


def _takes_images(signature: Signature) -> bool:
    specs = list(signature.inputs.values())
    return len(specs) == 1 and specs[0].shape.rank == 4


def _embedder(
    opened: Opened, name: str, output: str, tokenizer: Words | Pairs | None
) -> Callable[[Sequence[str], Sequence[str]], np.ndarray]:
    """Return the function of texts and their names -> embeddings of length 1."""
    where, (specs, outputs) = opened.handle, opened.signatures[name]
    main = next(each for each in specs if not _is_mask(each))
    masks, spec = [each for each in specs if each != main], specs[main]
    if tokenizer is None and spec.dtype != tf.string:
        remedy = "put the file into its folder, and vocabulary: FILE or merges: FILE into its model.json"
        raise fail(f"model {where}", "a file of tokens, for it takes numbers of tokens", "none in its model.json", remedy)
    output = output or _embedding_of(outputs, where)
    function, fixed = opened.function(name), spec.shape[0]

    def run(ids: Any, mask: Any) -> np.ndarray:
        given = {main: tf.constant(ids, spec.dtype), **{each: tf.constant(mask, specs[each].dtype) for each in masks}}
        found = function(given)
        return np.asarray(tf.cast(found[output or next(iter(found))], tf.float32))

    def embed(texts: Sequence[str], names: Sequence[str]) -> np.ndarray:
        if spec.dtype == tf.string:
            ids = np.array(texts, object).reshape([-1, *spec.shape[1:]])
            mask = np.ones([len(texts), 1])
        else:
            assert tokenizer is not None
            ids, mask = tokenizer.encode(texts, names, spec.shape[1] or MAX_TOKENS)
        size = fixed or BATCH
        parts = [np.arange(k, k + size) for k in range(0, len(texts), size)]
        rows = parts if fixed else [part[part < len(texts)] for part in parts]  # a full batch repeats the last text
        try:
            with tf.init_scope():
                found: np.ndarray = np.concatenate(
                    [run(*(each[np.minimum(row, len(texts) - 1)] for each in (ids, mask))) for row in rows]
                )
        except (ValueError, TypeError, tf.errors.OpError) as error:
            remedy = "export it again, or name the right files and signatures in its model.json"
            raise fail(f"model {where}", f"an encoder of texts {shown(spec)}", reason_of(error), remedy) from error
        return _checked(found[: len(texts)], where)

    return embed


def _embedding_of(outputs: Mapping[str, tf.TensorSpec], where: str) -> str:
    """Return the name of the output that is the embedding; '' if only a call can tell."""
    fitting = [name for name, spec in outputs.items() if spec.dtype.is_floating and spec.shape.rank in (None, 2)]
    known = [name for name in OUTPUTS if name in fitting]
    if outputs and len(fitting) != 1 and not known:
        got, remedy = f"outputs {listed(outputs)}", "add text_signature: NAME:OUTPUT to its model.json"
        raise fail(f"model {where}", "one embedding [B, dim] of texts", got, remedy)
    return next(iter(known or fitting), "")


def _checked(found: np.ndarray, where: str) -> np.ndarray:
    """Return embeddings with length 1; raise `UserError` if they are not embeddings."""
    if found.ndim != 2 or not 0 < found.shape[1] <= MAX_DIM or not np.isfinite(found).all():
        got = f"shape {list(found.shape)}" if found.ndim != 2 or np.isfinite(found).all() else "numbers that are not finite"
        raise fail(f"model {where}", "embeddings of texts [B, dim]", got, "export it again")
    unit = found.astype(np.float64)
    length: np.ndarray = np.sqrt((unit**2).sum(1, keepdims=True) + _SQUARE)
    return np.asarray(unit / length, np.float32)
