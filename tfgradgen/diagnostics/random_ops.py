"""Search for the random operations that a function reaches."""

from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tfgradgen.core.text import printable

# Operations that draw new numbers at each call.
STATEFUL = {
    "RandomUniform",
    "RandomUniformInt",
    "RandomStandardNormal",
    "TruncatedNormal",
    "ParameterizedTruncatedNormal",
    "RandomGamma",
    "RandomPoisson",
    "RandomPoissonV2",
    "RandomShuffle",
    "Multinomial",
    "StatefulStandardNormalV2",
    "StatefulTruncatedNormal",
    "StatefulUniform",
    "StatefulUniformFullInt",
    "StatefulUniformInt",
    "StatefulRandomBinomial",
    "RngReadAndSkip",
    "RngSkip",
    "SampleDistortedBoundingBox",
    "SampleDistortedBoundingBoxV2",
    "FractionalMaxPool",
    "FractionalAvgPool",
    "RandomCrop",
}
STATELESS = ("StatelessRandom", "StatelessTruncated", "StatelessParameterized", "StatelessMultinomial", "StatelessShuffle")


def random_ops(fn: Callable[[tf.Tensor], Any], spec: tf.TensorSpec) -> list[str]:
    """Return `RandomUniform (node g/random)` for each random operation that `fn` reaches, also in functions that it calls.

    These are the operations that draw new numbers at each call, and stateless ones with a seed that is not constant.

    Args:
      fn: A function of one tensor.
      spec: Shape and dtype of its argument.

    Returns:
      The operations; [] if `fn` cannot be traced.
    """
    try:
        graph = tf.function(fn, autograph=False).get_concrete_function(spec).graph.as_graph_def()
    except (ValueError, TypeError, NotImplementedError, tf.errors.OpError):
        return []
    found = [f"{node.op} (node {printable(node.name)})" for nodes in _reached(graph) for node in nodes if _draws(node, nodes)]
    return list(dict.fromkeys(found))


def _reached(graph: Any) -> Iterator[list[Any]]:
    """Yield the nodes of `graph` and of each function that it calls, directly or through others."""
    library = {function.signature.name: list(function.node_def) for function in graph.library.function}
    pending, seen = [list(graph.node)], set[str]()
    while pending:
        nodes = pending.pop()
        yield nodes
        for node in nodes:
            for attribute in node.attr.values():
                called = [attribute.func, *attribute.list.func] if attribute.HasField("func") else attribute.list.func
                for function in called:
                    if function.name in library and function.name not in seen:
                        seen.add(function.name)
                        pending.append(library[function.name])


def _draws(node: Any, nodes: list[Any]) -> bool:
    if node.op in STATEFUL:
        return True
    return node.op.startswith(STATELESS) and not _is_constant(node, nodes)


def _is_constant(node: Any, nodes: list[Any]) -> bool:
    """Return whether the seed of `node`, its second and further inputs, depends on constants only."""
    by_name = {other.name: other for other in nodes}
    pending, seen = [name for name in node.input if not name.startswith("^")][1:], set[str]()
    while pending:
        name = pending.pop().split(":")[0]
        if name in seen:
            continue
        seen.add(name)
        source = by_name.get(name)
        if source is None or source.op in ("Placeholder", "VarHandleOp", "ReadVariableOp", "Arg", "_Arg"):
            return False
        pending += [other for other in source.input if not other.startswith("^")]
    return True
