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
        store: _Store | None = attributes.get(ATTRIBUTE)
        if store is None:
            store = attributes[ATTRIBUTE] = _Store()  # past the object's own __setattr__: it may be frozen or track models
            _STORES.add(store)
        return store
    except TypeError:
        return _SHARED


class _Faint:
    """A model for whoever is not to keep it alive: called, and asked for its attributes, as the model itself."""

    def __init__(self, model: Any):
        self._ref = weakref.ref(model)

    def __call__(self, *args: Any) -> Any:
        return real(self)(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(real(self), name)


def real(model: Any) -> Any:
    """`model` itself, where a function of `per_networks` was given a stand-in for it."""
    if not isinstance(model, _Faint):
        return model
    found = model._ref()
    if found is None:
        raise ReferenceError("the model of a compiled function is gone")
    return found


def _faint(model: Any) -> Any:
    try:
        return None if model is None else _Faint(model)
    except TypeError:  # it takes no weak reference
        return model


def per_networks(fn: Callable[..., Any]) -> Any:
    """`fn(networks, *settings)`, computed once for the same models by identity and the same settings.

    Unlike `functools.lru_cache`, it asks no hash of the models, which may be plain dataclasses, and keeps none alive: a result
    lies with the generator, and goes when one of the other models does. `fn` gets stand-ins for those, or the functions that it
    compiles would keep them; where it needs one itself, `real` gives it.
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
            # While a result is there, the ids of its models are given to no others: it goes with the first of them.
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
