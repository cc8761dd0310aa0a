"""Everything that training on a GPU machine needs, in a few small files.

    python -m tools.device.packed --data=PHOTOS --others=OTHER_PHOTOS --teacher=MODEL --features=SQUEEZENET.npz [--judge=MODEL]

writes `photographs.npz` (encoded, as they are), the weights of the frozen networks, and `names.json` to `device_in/training`.
PHOTOS and OTHER_PHOTOS are a folder or .tar as for the other training tools; MODEL is a teacher or a judge as
train_classifier.py exports them. Packing needs TensorFlow; reading needs none.
"""

import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fire
import keras
import numpy as np
from PIL import Image

from tools.train import photographs
from tools.train.classifier_networks import PretrainedClassifier, ResidualClassifier
from tools.train.efficientnet_lite import LARGE, NUM_CLASSES, Network, Pretrained

OTHERS_A_CLASS = 14  # photographs of each other class that travel


def encoded(data, split, names, files=slice(None)):
    """Return (list of file contents, label int32 [N]) of the classes `names`."""
    contents, labels = [], []
    for index, name in enumerate(names):
        folder = photographs.as_folder(data) / split / name
        paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in photographs.ENDINGS)[files]
        contents += [path.read_bytes() for path in paths]
        labels += [index] * len(paths)
    return contents, np.asarray(labels, "int32")


def joined(contents):
    """Return (bytes uint8 [total], ends int64 [N]) of a list of file contents."""
    return np.frombuffer(b"".join(contents), "uint8"), np.cumsum([len(each) for each in contents])


def decoded(content, ends):
    """Return the images of `joined` files, uint8 [N, 64, 64, 3]."""
    size = (photographs.SIZE, photographs.SIZE)

    def read(span):
        image = Image.open(io.BytesIO(content[span[0] : span[1]].tobytes())).convert("RGB")
        return np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BICUBIC))

    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(read, zip(np.concatenate([[0], ends[:-1]]), ends, strict=True))))


def save_weights(path, variables):
    """Write variables in order, large ones in 16 bits."""
    small = lambda value: value.astype("float16") if value.size >= LARGE else value  # noqa: E731
    np.savez(path, **{f"v{k}": small(np.asarray(variable)) for k, variable in enumerate(variables)})


def load_weights(path, variables):
    """Assign what `save_weights` wrote."""
    with np.load(path) as arrays:
        if len(arrays.files) != len(variables):
            raise SystemExit(f"{path}: expected {len(variables)} arrays, got {len(arrays.files)}; pack the inputs again.")
        for k, variable in enumerate(variables):
            variable.assign(arrays[f"v{k}"].astype(variable.dtype))


def as_read(network, size=photographs.SIZE):
    """Build the layers of a network without running it."""
    network(keras.Input((size, size, 3)))
    return network


class PackedLite(Pretrained):
    """EfficientNet-Lite1 with ImageNet weights, from `lite1.npz`."""

    def __init__(self, path, image_size):
        self.network = Network("lite1", image_size)
        self.kernel = keras.Variable(np.zeros((self.network.kernels[-1].shape[-1], NUM_CLASSES), "float32"), trainable=False)
        self.bias = keras.Variable(np.zeros(NUM_CLASSES, "float32"), trainable=False)
        load_weights(path, self.variables)
        self.network.trainable = False

    @property
    def variables(self):
        return [*self.network.variables, self.kernel, self.bias]


class Packed:
    """What `main` wrote to `folder`."""

    def __init__(self, folder):
        self.folder = Path(folder)
        found = json.loads((self.folder / "names.json").read_text(encoding="utf-8"))
        self.names, self.columns, self.num_others = found["names"], np.asarray(found["columns"]), found["num_others"]

    def photographs(self):
        """Return {part: (image uint8, label)} for train, val, others (training) and others_val (held out)."""
        with np.load(self.folder / "photographs.npz") as file:
            parts = {name.removesuffix("_label") for name in file.files if name.endswith("_label")}
            return {part: (decoded(file[part], file[f"{part}_ends"]), file[f"{part}_label"]) for part in parts}

    def lite(self, image_size):
        return PackedLite(self.folder / "lite1.npz", image_size)

    def judge(self):
        return self._network("judge", PretrainedClassifier)

    def teacher(self):
        return self._network("teacher", ResidualClassifier)

    def _network(self, name, kind):
        network = as_read(kind(len(self.names), self.num_others[name]))
        load_weights(self.folder / f"{name}.npz", network.variables)
        network.trainable = False
        return network


def exported_weights(model):
    """Return the variables of a network that train_classifier.py exported, in order."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(Path(model) / "variables" / "variables"))
    count = sum(name.startswith("weights/") for name in reader.get_variable_to_shape_map())
    return [reader.get_tensor(f"weights/{k}/.ATTRIBUTES/VARIABLE_VALUE") for k in range(count)]


def main(data, others, teacher, features, judge="saved_models/judge", out="device_in/training"):
    """Pack the photographs and the frozen networks into the folder `out`."""
    from tfgradgen.models.classifier import load_classifier
    from tools.train.label_draws import imagenet_columns

    out = Path(out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    labels = load_classifier(teacher).labels
    names = [label.name for label in labels if not label.background]
    strangers = [name for name in photographs.class_names(others) if name not in names]
    parts = {
        "train": encoded(data, "train", names),
        "val": encoded(data, "val", names),
        "others": encoded(others, "train", strangers, slice(0, OTHERS_A_CLASS)),
        "others_val": encoded(others, "train", strangers, photographs.HELD_OUT),
    }
    arrays = {}
    for part, (contents, label) in parts.items():
        arrays[part], arrays[f"{part}_ends"] = joined(contents)
        arrays[f"{part}_label"] = label
    np.savez(out / "photographs.npz", **arrays)
    num_others = {}
    for name, model in {"teacher": teacher, "judge": judge}.items():
        weights = exported_weights(model)
        head = next(value for value in weights if value.ndim == 2)
        num_others[name] = head.shape[1] - len(names)
        save_weights(out / f"{name}.npz", weights)
    lite = Pretrained("lite1", photographs.SIZE)
    save_weights(out / "lite1.npz", [*lite.network.variables, lite.kernel, lite.bias])
    with np.load(features) as file:
        np.savez(out / "squeezenet.npz", **{name: file[name].astype("float16") for name in file.files})
    record = {"names": names, "columns": imagenet_columns(labels), "num_others": num_others}
    (out / "names.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    total = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {total / 1e6:.1f} MB")


if __name__ == "__main__":
    fire.Fire(main)
