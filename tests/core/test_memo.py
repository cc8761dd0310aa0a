"""Functions compiled for models are released with them, whichever model is released first."""

import gc
import weakref
from typing import Any

import pytest
import tensorflow as tf

from tests.support.toy import ToyGenerator
from tfgradgen.core.config import RunConfig, Schedule
from tfgradgen.core.contracts import Networks, collect
from tfgradgen.core.memo import per_networks, real
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.models.classifier import Classifier
from tfgradgen.models.loading.metadata import Label
from tfgradgen.posterior import ClassPosterior


class Model:
    """Any model."""

    num_classes = 2

    def __call__(self, x: Any) -> Any:
        return x + 1


class WithoutWeakReference:
    __slots__ = ()


def are_gone(*references: Any) -> list[bool]:
    gc.collect()
    return [reference() is None for reference in references]


def guessing() -> Classifier:
    """A classifier whose image range is guessed from the generator's images."""
    labels = tuple(Label(name) for name in ("a", "b", "c"))
    return Classifier(lambda image: image[:, 0, 0, :1] * [0.0, 2.0, -1.0], labels, (2, 2), assumed=("image_range",))


@pytest.mark.parametrize(("name", "label"), [("mala", "a & !b"), ("rejection", [0, 1]), ("smc", 2)])
def test_no_cache_keeps_models_alive(name: str, label: Any) -> None:
    generator, classifier = ToyGenerator(), guessing()

    def energy(image: tf.Tensor) -> tf.Tensor:
        return image[:, 1, 1, 0]

    more = {"discriminator": energy, "discriminator_weight": 0.1} if name == "mala" else {}
    posterior = ClassPosterior(generator, classifier, label, **more)
    assert posterior.unpin("label").sample(seed=1)["z"].shape == 6
    method = SAMPLERS[name]
    collect(method.chunks_fn(posterior, method.defaults, Schedule(2, 2, 2), RunConfig(num_chains=2), None))
    references = [weakref.ref(each) for each in (posterior, posterior.classifier, classifier, energy, generator)]
    del posterior, more
    assert are_gone(references[0]) == [True]
    del classifier, energy
    assert are_gone(*references) == [True, True, True, True, False], "while the generator is used on"
    del generator
    assert are_gone(references[-1]) == [True]


def test_the_same_models_have_one_result_while_they_live() -> None:
    calls = []

    @per_networks
    def compiled(networks: Networks, setting: int) -> Any:
        calls.append(setting)
        assert networks.classifier.num_classes == 2
        assert networks.classifier(1) == 2
        assert not hasattr(networks.classifier, "labels")
        return lambda: real(networks.classifier)

    generator, classifier = Model(), Model()
    networks = Networks(generator, classifier)  # type: ignore[arg-type]
    for setting in (1, 1, 2, 1):
        assert compiled(networks, setting)() is classifier
    assert calls == [1, 2]
    held = compiled(networks, 1)
    assert compiled.cache_info().currsize == 2
    del classifier, networks
    gc.collect()
    assert compiled.cache_info().currsize == 0
    with pytest.raises(ReferenceError, match="was deleted"):
        held()


def test_the_least_recently_used_result_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfgradgen.core.memo.MAX_KEPT", 2)
    calls: list[int] = []
    count = per_networks(lambda networks, setting: calls.append(setting))
    networks = Networks(Model(), Model())  # type: ignore[arg-type]
    for setting in (1, 2, 1, 3, 1, 2):
        count(networks, setting)
        assert count.cache_info().currsize <= 2
    assert calls == [1, 2, 3, 2]


def test_a_model_without_weak_references_is_kept_with_its_result() -> None:
    count = per_networks(lambda networks: networks.classifier)
    first = WithoutWeakReference()
    assert count(Networks(Model(), first)) is first  # type: ignore[arg-type]
