"""The `check` command: checks of the models before a run, evaluated as a run evaluates them."""

import functools
from dataclasses import replace
from typing import Any

import tensorflow as tf

from tfgradgen.cli.load import Loaded, load_models
from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.terminal import say
from tfgradgen.core.backend import as_seed, full_float32
from tfgradgen.core.text import as_text
from tfgradgen.diagnostics.footprint import USABLE, Footprint, bytes_per_row, free_bytes, measure, resident_bytes
from tfgradgen.diagnostics.model_checks import gradient_checks_at, likelihood_gradient, prior_checks
from tfgradgen.diagnostics.preflight import Check
from tfgradgen.diagnostics.prior_checks import NUM_PRIOR
from tfgradgen.models.classifier import Classifier
from tfgradgen.models.generator import Generator
from tfgradgen.models.labels import resolve_labels
from tfgradgen.models.targets import Target
from tfgradgen.posterior import ClassPosterior

NUM_POINTS = 16  # prior draws whose gradients are checked
NUM_CHAINS = (1, 16, 64)  # batch sizes at which the cost of a gradient is measured
MAX_ALL, NUM_OF_MANY = 20, 4  # without --label: check up to MAX_ALL labels, or NUM_OF_MANY of more
MIB = 2**20


def run_check(options: SampleOptions) -> bool:
    """Print the models, the checks of each requested label, and the cost of a gradient.

    Models that XLA cannot compile are no failure: runs then use graph mode.

    Returns:
      Whether all checks passed.
    """
    full_float32()
    loaded = load_models(options.models)
    say("\n".join(described(loaded)))
    all_ok = True
    for target in chosen(loaded, options.label):
        networks = loaded.networks(target)
        found = prior_checks(ClassPosterior.of(networks, target.index))
        if not any(check.is_grave and not check.is_ok for check in found):  # otherwise its gradients are meaningless
            found += gradient_checks_at(networks, target.index, NUM_POINTS, options.run.temperature, xla=True)
        say(f"{as_text(target.label.name)}, at {NUM_PRIOR} prior draws, of gradients at {NUM_POINTS}")
        say("\n".join(map(line, found)))
        all_ok = all_ok and all(check.is_ok or is_no_xla(check) for check in found)
    graph_fn = functools.partial(likelihood_gradient(networks, options.run.temperature, False), tf.constant(target.index))
    say("\n".join(costs(graph_fn, loaded.generator.latent_dim, options)))
    return all_ok


def chosen(loaded: Loaded, wanted: Any) -> list[Target]:
    """Return the targets that `wanted` names.

    If it is None, return the text alone, or all labels, or `NUM_OF_MANY` evenly spaced ones if there are more than `MAX_ALL`.
    """
    if wanted is not None or loaded.text is not None:
        return loaded.targets(wanted)
    classes = resolve_labels(loaded.classifiers[0].labels, "all")
    if len(classes) > MAX_ALL:
        say(f"labels      {NUM_OF_MANY} of {len(classes)}, for --label names none")
        classes = [classes[k * len(classes) // NUM_OF_MANY] for k in range(NUM_OF_MANY)]
    return loaded.targets(classes)


def described(loaded: Loaded) -> list[str]:
    """Return lines that describe each model."""
    generator, lines = loaded.generator, []
    prior = generator.prior if generator.truncation is None else f"{generator.truncation:g} * {generator.prior}"
    classes = f", class: {generator.generator_class}" if generator.generator_class else ""
    encoder = ", with an encoder" if generator.encode_fn else ""
    lines += _head("generator", generator)
    given = f"{generator.medium.text} in {_range(generator)}{encoder}"
    lines.append(f"            z {generator.latent_dim} (prior {prior}{classes}) -> {given}")
    for classifier in loaded.classifiers:
        lines += _head("classifier", classifier)
        taken = replace(classifier.medium, shape=classifier.image_size or (None,)).text
        lines.append(f"            {taken} in {_range(classifier)} -> {classifier.output} of {classifier.num_classes} classes")
    if loaded.text:
        size = " x ".join(map(str, loaded.text.image_size))
        lines += _head("text model", loaded.text)
        lines.append(f"            image {size} in {_range(loaded.text)} -> p(text) among {len(loaded.text.captions)} captions")
    if loaded.discriminator:
        lines += _head("discriminator", loaded.discriminator)
    return lines


def _head(role: str, model: Generator | Classifier) -> list[str]:
    tags = f", tags {','.join(model.tags)}" if model.tags else ""
    signatures = f"            signatures {'; '.join(model.signatures)}" if model.signatures else ""
    return [
        f"{role:10s}  {as_text(model.path)}",
        f"            takes {as_text(model.signature)}{tags}",
        *([signatures] if signatures else []),
    ]


def _range(model: Generator | Classifier) -> str:
    return f"[{model.image_range[0]:g}, {model.image_range[1]:g}]"


def costs(fn: Any, latent_dim: int, options: SampleOptions) -> list[str]:
    """Return lines with the seconds and memory of a value and its gradient at `NUM_CHAINS`, and the largest batch that fits.

    A batch that is expected not to fit into memory is not measured.
    """
    lines, found = [f"a gradient in graph mode on {tf.config.list_logical_devices()[-1].name}"], list[tuple[int, Footprint]]()
    before, free = resident_bytes(is_trimmed=True), free_bytes()
    growth = 0.0
    for num_chains in NUM_CHAINS:
        if growth * num_chains > USABLE * free:
            lines.append(f"  {num_chains:3d} chains: would take about {growth * num_chains / MIB:,.0f} MiB, so not measured")
            continue
        z = tf.random.stateless_normal([num_chains, latent_dim], as_seed(options.run.seed))
        found.append((num_chains, measure(fn, z, before)))
        chains = f"{num_chains:3d} chain{'s' if num_chains > 1 else ' '}"
        lines.append(f"  {chains}: {found[-1][1].seconds:.3g} s, {found[-1][1].num_bytes / MIB:,.0f} MiB")
        sizes = [(rows, footprint.num_bytes) for rows, footprint in found]
        growth = bytes_per_row(sizes[-2], sizes[-1]) if len(sizes) > 1 else float(sizes[0][1])
    fitting = max(1, int(USABLE * free / max(growth, 1.0)))
    lines.append(f"  about {fitting:,} chains fit into the {free / MIB:,.0f} MiB that are free; beyond, --max_batch={fitting}")
    return lines


def is_no_xla(check: Check) -> bool:
    """Return whether `check` found that XLA cannot compile the models, rather than that its results differ."""
    return check.what == "xla" and not check.is_grave


def line(check: Check) -> str:
    """Return a line of output: `ok`, `no` or `FAIL`, the check, the result and, unless it passed, the remedy."""
    word = "ok" if check.is_ok else "no" if is_no_xla(check) else "FAIL"
    rest = "" if check.is_ok else f"; {check.remedy}"
    return f"  {word:5s}  {check.what:11s}  {check.expected}: {check.found}{rest}"
