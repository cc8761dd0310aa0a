"""A cache of results per set of networks. Its entries live as long as the networks do."""

import functools
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from tfgradgen.core.contracts import Networks

MAX_KEPT = 8  # results of one function per generator; the least recently used is dropped
ATTRIBUTE = "_tfgradgen_memo"


class Info(NamedTuple):
    """Size of a cache, named as in `functools.lru_cache`."""

    currsize: int


class _Store:
    """Results cached with one generator, by function. Deep copies and pickles of the generator start empty."""

    def __init__(self) -> None:
        self.of = dict[str, OrderedDict[Any, Any]]()

    def __deepcopy__(self, memo: Any) -> "_Store":
        return _Store()

    def __reduce__(self) -> Any:
        return _Store, ()


_STORES: "weakref.WeakSet[_Store]" = weakref.WeakSet()
_SHARED = _Store()  # for generators that accept no attribute
_STORES.add(_SHARED)


def _store_of(generator: Any) -> _Store:
    """Return the store held by the generator itself, so that this module keeps neither it nor other networks alive."""
    try:
        attributes = vars(generator)
        store: _Store | None = attributes.get(ATTRIBUTE)
        if store is None:
            store = attributes[ATTRIBUTE] = _Store()  # not by __setattr__: the object may be frozen or track models
            _STORES.add(store)
        return store
    except TypeError:
        return _SHARED


class _Faint:
    """A weak proxy of a model: it can be called and has the model's attributes, but does not keep the model alive."""

    def __init__(self, model: Any):
        self._ref = weakref.ref(model)

    def __call__(self, *args: Any) -> Any:
        return real(self)(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(real(self), name)


def real(model: Any) -> Any:
    """Return `model`, or the model behind it if it is a weak proxy from `per_networks`."""
    if not isinstance(model, _Faint):
        return model
    found = model._ref()
    if found is None:
        raise ReferenceError("the model of a compiled function was deleted")
    return found


def _faint(model: Any) -> Any:
    try:
        return None if model is None else _Faint(model)
    except TypeError:  # the type does not support weak references
        return model


def per_networks(fn: Callable[..., Any]) -> Any:
    """Cache `fn(networks, *settings)` by the identity of the models and the settings.

    Unlike `functools.lru_cache`, this needs no hash of the models, which may be plain dataclasses, and keeps none alive. A
    result is stored in the generator and dropped when one of the other models is deleted. `fn` gets weak proxies of those, so
    that the functions that it compiles do not keep them alive; `real` returns the model itself.
    """
    name = f"{fn.__module__}.{fn.__qualname__}"

    @functools.wraps(fn)
    def kept(networks: Networks, *settings: Any) -> Any:
        results = _store_of(networks.generator).of.setdefault(name, OrderedDict())
        generator, classifier, discriminator, *rest = networks
        observers = real(classifier), real(discriminator)
        key = (id(generator), *map(id, observers), *rest, *settings)
        if key not in results:
            faint = [_faint(model) for model in observers]
            # An entry is dropped with the first of its models, so no other model can have their ids while it exists.
            guards = [
                weakref.ref(real(each), lambda _: results.pop(key, None)) if isinstance(each, _Faint) else each
                for each in faint
            ]
            results[key] = ((generator, guards), fn(Networks(generator, *faint, *rest), *settings))
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
