"""Local stand-ins of public TF-Hub models, by their real handles: same interface, few random weights, no download.

Sources of the interfaces: the model cards (tensorflow/tfhub.dev, `assets/docs`), printed signatures of the real modules
(BigBiGAN, MobileNet V2, birds_V1), and the exporters of compare_gan (`modular_gan.py`) and YAMNet (`export.py`).
"""

import hashlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.support import standins_classifiers as classifiers
from tests.support import standins_generators as generators
from tests.support.standins_biggan_deep import biggan_deep_256 as biggan_deep_256

DEEPMIND, GOOGLE = "https://tfhub.dev/deepmind", "https://tfhub.dev/google"

STANDINS: dict[str, Callable[[Path], Path]] = {
    f"{DEEPMIND}/biggan-128/2": partial(generators.biggan, size=128, z_dim=120),
    f"{DEEPMIND}/biggan-256/2": partial(generators.biggan, size=256, z_dim=140),
    f"{DEEPMIND}/biggan-512/2": partial(generators.biggan, size=512, z_dim=128),
    f"{DEEPMIND}/biggan-deep-128/1": partial(generators.biggan, size=128, z_dim=128),
    f"{DEEPMIND}/bigbigan-resnet50/1": generators.bigbigan,
    f"{GOOGLE}/progan-128/1": generators.progan,
    f"{GOOGLE}/compare_gan/model_1_celebahq128_resnet19/1": generators.compare_gan,
    f"{GOOGLE}/compare_gan/s3gan_20_128x128/1": generators.s3gan,
    f"{GOOGLE}/compare_gan/s3gan_10_256x256/1": partial(generators.s3gan, size=256, z_dim=140, seed=4),
    f"{GOOGLE}/compare_gan/ssgan_128x128/1": partial(generators.s3gan, seed=5),
    f"{GOOGLE}/imagenet/inception_v3/classification/5": partial(classifiers.slim, seed=3, size=None),
    f"{GOOGLE}/imagenet/mobilenet_v2_100_224/classification/5": partial(classifiers.slim, seed=2, size=224),
    f"{GOOGLE}/imagenet/resnet_v2_50/classification/5": partial(classifiers.slim, seed=1, size=None),
    f"{GOOGLE}/efficientnet/b0/classification/1": classifiers.efficientnet,
    f"{GOOGLE}/bit/m-r50x1/ilsvrc2012_classification/1": classifiers.big_transfer,
    f"{GOOGLE}/aiy/vision/classifier/birds_V1/1": classifiers.birds,
    f"{GOOGLE}/yamnet/1": classifiers.yamnet,
}

progan_with_while = partial(generators.progan, control="while")
progan_with_cond = partial(generators.progan, control="cond")


def build(handle: str, folder: Path) -> Path:
    """Write the stand-in of `handle` into `folder`, which must not exist yet, and return the folder."""
    return STANDINS[handle](folder)


def cached_copy(handle: str, cache: Path) -> Path:
    """Put the stand-in where tensorflow_hub looks with TFHUB_CACHE_DIR=`cache`; an existing one is not changed."""
    folder = cache / hashlib.sha1(handle.encode("utf8")).hexdigest()
    cache.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=cache) as beside:
            build(handle, Path(beside) / "module").rename(folder)
    return folder
