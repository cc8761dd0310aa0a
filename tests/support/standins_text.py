"""Stand-ins of text models with CLIP's interface: tokens [B, 77], normalized images, few weights, a known probability.

The embedding of an image is its mean colour, that of a text the sum of its words' vectors; so the cosine is known.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tests.support.standins_writing import Signature, Weights, placeholder, write_hub_module

LENGTH, SIZE, SCALE = 77, 16, 6.0
MEAN, DEVIATION = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)  # those of CLIP, to two digits
VECTORS = {
    "[PAD]": (0.0, 0.0, 0.0),
    "[START]": (0.1, 0.0, 0.0),
    "[END]": (0.0, 0.0, 0.1),
    "a": (0.0, 0.0, 0.0),
    "red": (2.0, -1.0, -1.0),
    "green": (-1.0, 2.0, -1.0),
    "blue": (-1.0, -1.0, 2.0),
    "white": (1.0, 1.0, 1.0),
    "black": (-1.0, -1.0, -1.0),
    "fish": (0.3, 0.1, -0.2),
    "sky": (-0.2, 0.0, 0.3),
}
TABLE = np.array(list(VECTORS.values()), np.float32)
CAPTIONS = ("a green fish", "a blue fish", "a white sky", "a black sky")
CARD: dict[str, Any] = {
    "scale": SCALE,
    "mean": list(MEAN),
    "deviation": list(DEVIATION),
    "vocabulary": "vocabulary.txt",
    "start_token": "[START]",
    "end_token": "[END]",
    "captions": "captions.txt",
}


def embedding_of(text: str) -> np.ndarray:
    """Return the embedding of a text, float64 [3], not normalized."""
    rows = [VECTORS[word] for word in ("[START]", *text.split(), "[END]")]
    return np.sum(np.array(rows, np.float64), 0)


def probability(text: str, image: np.ndarray, captions: tuple[str, ...] = CAPTIONS, scale: float = SCALE) -> np.ndarray:
    """Return p(text | image) [B] of images [B, H, W, 3] in [-1, 1], by the formula."""
    seen = image.mean((1, 2), dtype=np.float64) / 2  # mean colour in [0, 1], minus 0.5
    rows = np.stack([embedding_of(each) for each in (text, *captions)])
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    weight = np.exp(scale * unit(seen) @ unit(rows).T)
    return np.asarray(weight[:, 0] / weight.sum(1))


def write_files(folder: Path, **changes: Any) -> Path:
    """Write model.json (with `changes`; None removes an entry) and its files into the folder of a model."""
    (folder / "vocabulary.txt").write_text("\n".join(VECTORS))
    (folder / "captions.txt").write_text("# reference captions\n\n" + "\n".join(CAPTIONS))
    card = {name: value for name, value in (CARD | changes).items() if value is not None}
    (folder / "model.json").write_text(json.dumps(card))
    return folder


def _texts(tokens: Any, table: Any) -> Any:
    return tf.reduce_sum(tf.gather(table, tokens), 1)


def _images(image: Any) -> Any:
    return tf.reduce_mean(image * tf.constant(DEVIATION) + tf.constant(MEAN), [1, 2]) - 0.5


def clip(folder: Path, width: int = 3, batch: int | None = None, **changes: Any) -> Path:
    """Save a TF2 SavedModel with encode_text and encode_image; `width` gives embeddings of texts another width."""
    module = tf.Module()
    module.table = tf.Variable(TABLE)
    tokens, image = tf.TensorSpec([batch, LENGTH], tf.int32, "tokens"), tf.TensorSpec([None, SIZE, SIZE, 3], name="image")
    texts = tf.function(lambda tokens: _texts(tokens, module.table)[:, :width], input_signature=[tokens])
    module.encode_text, module.encode_image = texts, tf.function(_images, input_signature=[image])
    signatures = {"encode_text": module.encode_text, "encode_image": module.encode_image}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return write_files(folder, **changes)


def masked_clip(folder: Path) -> Path:
    """Save the same model with other names, int64 tokens and a mask, as Hugging Face exports CLIP."""
    module = tf.Module()
    module.table = tf.Variable(TABLE)
    ids, mask = (tf.TensorSpec([None, LENGTH], tf.int64, name) for name in ("input_ids", "attention_mask"))

    def texts(input_ids: Any, attention_mask: Any) -> Any:
        rows = tf.gather(module.table, input_ids) * tf.cast(attention_mask, tf.float32)[:, :, None]
        return {"text_embeds": tf.reduce_sum(rows, 1), "tokens_used": tf.cast(attention_mask, tf.float32)}

    module.texts = tf.function(texts, input_signature=[ids, mask])
    module.images = tf.function(_images, input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], name="pixel_values")])
    tf.saved_model.save(module, str(folder), signatures={"get_text_features": module.texts, "see": module.images})
    return write_files(folder)


def clip_of_strings(folder: Path) -> Path:
    """Save the same model for strings [B], which the graph splits itself."""
    module = tf.Module()
    words = tf.constant(list(VECTORS))
    module.vectors = tf.Variable(TABLE)

    def texts(text: Any) -> Any:
        parts = tf.strings.split(tf.strings.lower(text)).to_tensor("[PAD]")
        is_word = tf.cast(parts[:, :, None] == words, tf.float32)
        return tf.reduce_sum(tf.matmul(is_word, module.vectors[None]), 1) + module.vectors[1] + module.vectors[2]

    module.encode_text = tf.function(texts, input_signature=[tf.TensorSpec([None], tf.string, "text")])
    module.encode_image = tf.function(_images, input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], name="image")])
    signatures = {"encode_text": module.encode_text, "encode_image": module.encode_image}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return write_files(folder, vocabulary=None, start_token=None, end_token=None)


def tf1_clip(folder: Path) -> Path:
    """Save the same model in the TF1-Hub format."""

    def graph(weights: Weights) -> dict[str, Signature]:
        tokens, image = placeholder("tokens", None, LENGTH, dtype=tf.int32), placeholder("image", None, SIZE, SIZE, 3)
        return {
            "encode_text": Signature({"tokens": tokens}, {"default": _texts(tokens, weights.put("table", TABLE))}),
            "encode_image": Signature({"image": image}, {"default": _images(image)}),
        }

    return write_files(write_hub_module(folder, [([], graph)], Weights(7, resource=False)))
