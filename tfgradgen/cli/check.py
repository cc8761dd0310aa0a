"""The `check` command: looks at a pair of models as a run would use them, before one is started."""

import functools

import tensorflow as tf

from tfgradgen.backend import as_seed
from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.sample import load_pair
from tfgradgen.methods import likelihood_gradient
from tfgradgen.models.labels import resolve_labels
from tfgradgen.posterior import ClassPosterior
from tfgradgen.preflight import Check, preflight

NUM_POINTS = 16  # prior draws that are looked at


def run_check(options: SampleOptions) -> bool:
    """Prints what was looked at for each wanted label; returns whether all of it is as it should be."""
    generator, classifier = load_pair(options)
    compiled = [likelihood_gradient((generator, classifier), options.run.temperature, xla) for xla in (False, True)]
    z = ClassPosterior(generator, classifier, 0).sample_prior(NUM_POINTS, as_seed(options.run.seed))
    image = generator(z)
    all_ok = True
    for index in resolve_labels(classifier.labels, options.label):
        graph_fn, xla_fn = (functools.partial(fn, tf.constant(index)) for fn in compiled)
        found = preflight(image, z, graph_fn, xla_fn)
        print(f"{classifier.labels[index].name}, at {NUM_POINTS} prior draws")
        print("\n".join(map(line, found)), flush=True)
        all_ok = all_ok and all(check.is_ok for check in found)
    return all_ok


def line(check: Check) -> str:
    """`ok` or `FAULT`, what was looked at, what was found and, for a fault, what to do."""
    rest = "" if check.is_ok else f"; {check.remedy}"
    return f"  {'ok' if check.is_ok else 'FAULT':5s}  {check.what:11s}  {check.expected}: {check.found}{rest}"
