"""Exported networks have no batch normalization: it is folded into the convolutions."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support.tooling import tool

NETWORKS = {
    "teacher": lambda: tool("classifier_networks").NETWORKS["teacher"](3, 4),
    "discriminator": lambda: tool("classifier_networks").NETWORKS["discriminator"](2),
    "speech classifier": lambda: tool("sound_networks").SpeechClassifier(3, 1),
    "speech judge": lambda: tool("sound_networks").SpeechJudge(3, 1),
    "clip classifier": lambda: tool("clip_networks").RECOGNISERS["classifier"](3, width=0.5),
    "clip judge": lambda: tool("clip_networks").RECOGNISERS["judge"](3, width=0.5),
    "clip teacher": lambda: tool("clip_networks").RECOGNISERS["teacher"](3, width=0.5),
}


def trained(network: Any) -> Any:
    """Return the built network with weights that no layer starts with."""
    network(np.zeros((1, *network.INPUT_SHAPE), "float32"))
    rng = np.random.default_rng(0)
    for variable in network.weights:
        value = np.asarray(variable)
        variable.assign(np.abs(value + 0.2 * rng.standard_normal(value.shape)) + 0.1 if value.ndim < 2 else value)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_a_compact_network_says_the_same_without_normalizations(name: str) -> None:
    network = trained(NETWORKS[name]())
    compact = network.compact()
    x = tf.random.stateless_uniform([4, *network.INPUT_SHAPE], [0, 1], -1, 1)
    said = getattr(network, "opinion", network)(x)
    scale = float(np.std(said, axis=0).max())
    np.testing.assert_allclose(getattr(compact, "opinion", compact)(x), said, atol=1e-4 * scale)
    np.testing.assert_allclose(compact.features(x), network.features(x), rtol=1e-4, atol=1e-4)
    graph = tf.function(compact, autograph=False).get_concrete_function(tf.TensorSpec(x.shape)).graph
    kinds = {operation.type for operation in graph.get_operations()}
    assert not kinds & {"Rsqrt", "FusedBatchNormV3"}
    layer = [layer for layer in network.layers if hasattr(layer, "folded")][-1]
    layer.norm.moving_mean.assign(layer.norm.moving_mean + 1.0)  # a fold that ignores the mean would say the same
    changed = network.compact()
    assert np.abs(getattr(changed, "opinion", changed)(x) - said).max() > 1e-2 * scale
