"""Results that are kept with the models that they belong to, and are gone with them."""

import functools
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from tfgradgen.core.contracts import Networks

MAX_KEPT = 8  # results of one function kept with one generator: the latest used
ATTRIBUTE = "_tfgradgen_memo"


class Info(NamedTuple):
    """currsize: how many results are kept."""

    currsize: int


class _Store:
    """Results kept with one generator, by function. A deep copy or a pickle of the generator begins without any."""

    def __init__(self) -> None:
        self.of = dict[str, OrderedDict[Any, Any]]()

    def __deepcopy__(self, memo: Any) -> "_Store":
        return _Store()

    def __reduce__(self) -> Any:
        return _Store, ()


_STORES: "weakref.WeakSet[_Store]" = weakref.WeakSet()
_SHARED = _Store()  # of generators that take no attribute
_STORES.add(_SHARED)


def _store_of(generator: Any) -> _Store:
    """The store that lies in the generator itself, so that nothing here keeps it, or the networks of its results, alive."""
    try:
        attributes = vars(generator)
        if ATTRIBUTE not in attributes:
            attributes[ATTRIBUTE] = _Store()  # without the object's own __setattr__, which may be frozen or track models
            _STORES.add(attributes[ATTRIBUTE])
        return attributes[ATTRIBUTE]
    except TypeError:
        return _SHARED


def per_networks(fn: Callable[..., Any]) -> Any:
    """`fn(networks, *settings)`, computed once for the same models by identity and the same settings.

    Unlike `functools.lru_cache`, it asks no hash of the models, which may be plain dataclasses, and keeps none alive.
    """
    name = f"{fn.__module__}.{fn.__qualname__}"

    @functools.wraps(fn)
    def kept(networks: Networks, *settings: Any) -> Any:
        results = _store_of(networks.generator).of.setdefault(name, OrderedDict())
        generator, classifier, discriminator, *rest = networks
        key = (id(generator), id(classifier), id(discriminator), *rest, *settings)
        if key not in results:
            # The models are kept beside the result: while it is there, their ids are not given to others.
            results[key] = (networks, fn(networks, *settings))
            while len(results) > MAX_KEPT:
                results.popitem(last=False)
        results.move_to_end(key)
        return results[key][1]

    def cache_clear() -> None:
        for store in list(_STORES):
            store.of.pop(name, None)

    def cache_info() -> Info:
        return Info(sum(len(store.of.get(name, ())) for store in _STORES))

    kept.cache_clear = cache_clear  # type: ignore[attr-defined]
    kept.cache_info = cache_info  # type: ignore[attr-defined]
    return kept
