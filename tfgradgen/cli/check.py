"""The `check` command: looks at models as a run would use them, before one is started."""

import functools
from typing import Any

import tensorflow as tf

from tfgradgen.cli.load import Loaded, Target, load_models
from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.terminal import say
from tfgradgen.core.backend import as_seed, full_float32
from tfgradgen.core.text import as_text
from tfgradgen.diagnostics.footprint import USABLE, Footprint, bytes_per_row, free_bytes, measure, resident_bytes
from tfgradgen.diagnostics.model_checks import checked_points, likelihood_gradient, prior_checks
from tfgradgen.diagnostics.preflight import Check, gradient_checks
from tfgradgen.diagnostics.prior_checks import NUM_PRIOR
from tfgradgen.models.classifier import Classifier
from tfgradgen.models.generator import Generator
from tfgradgen.models.labels import resolve_labels
from tfgradgen.posterior import ClassPosterior

NUM_POINTS = 16  # prior draws whose gradients are checked
NUM_CHAINS = (1, 16, 64)  # whose gradients are measured
MAX_ALL, NUM_OF_MANY = 20, 4  # labels that are all looked at where none is named, and of more how many
MIB = 2**20


def run_check(options: SampleOptions) -> bool:
    """Prints what the models are, what was looked at for each wanted label, and what a gradient costs; returns whether all of
    it is as it should be. That XLA cannot compile them is no fault: runs then go in graph mode."""
    full_float32()
    loaded = load_models(options.models)
    say("\n".join(described(loaded)))
    all_ok = True
    for target in chosen(loaded, options.label):
        networks = loaded.networks(target)
        found = prior_checks(ClassPosterior.of(networks, target.index))
        compiled = [likelihood_gradient(networks, options.run.temperature, xla) for xla in (False, True)]
        graph_fn, xla_fn = (functools.partial(fn, tf.constant(target.index)) for fn in compiled)
        if not any(check.is_grave and not check.is_ok for check in found):  # else its gradients mean nothing
            z, class_prob = checked_points(networks, target.index, NUM_POINTS)
            found += gradient_checks(z, graph_fn, xla_fn, class_prob)
        say(f"{as_text(target.label.name)}, at {NUM_PRIOR} prior draws, of gradients at {NUM_POINTS}")
        say("\n".join(map(line, found)))
        all_ok = all_ok and all(check.is_ok or is_no_xla(check) for check in found)
    say("\n".join(costs(graph_fn, loaded.generator.latent_dim, options)))
    return all_ok


def chosen(loaded: Loaded, wanted: Any) -> list[Target]:
    """What `wanted` names; where it names nothing all labels, or of more than `MAX_ALL` some, evenly spaced."""
    if wanted is not None:
        return loaded.targets(wanted)
    classes = resolve_labels(loaded.classifiers[0].labels, "all")
    if len(classes) > MAX_ALL:
        say(f"labels      {NUM_OF_MANY} of {len(classes)}, for --label names none")
        classes = [classes[k * len(classes) // NUM_OF_MANY] for k in range(NUM_OF_MANY)]
    return loaded.targets(classes)


def described(loaded: Loaded) -> list[str]:
    """A line or two a model: what was found."""
    generator, lines = loaded.generator, []
    prior = generator.prior if generator.truncation is None else f"{generator.truncation:g} * {generator.prior}"
    classes = f", class: {generator.generator_class}" if generator.generator_class else ""
    shape = " x ".join(map(str, generator.image_shape))
    encoder = ", with an encoder" if generator.encode_fn else ""
    lines += _head("generator", generator)
    lines.append(
        f"            z {generator.latent_dim} (prior {prior}{classes}) -> image {shape} in {_range(generator)}{encoder}"
    )
    for classifier in loaded.classifiers:
        size = " x ".join(map(str, classifier.image_size)) or "any waveform"
        lines += _head("classifier", classifier)
        lines.append(
            f"            image {size} in {_range(classifier)} -> {classifier.output} of {classifier.num_classes} classes"
        )
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
    """Seconds and bytes of value and gradient at `NUM_CHAINS`, each as far as it fits, and the largest batch that does."""
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
    """Whether it says that XLA cannot compile the models, not that it computes something else."""
    return check.what == "xla" and not check.is_grave


def line(check: Check) -> str:
    """`ok`, `no` or `FAULT`, what was looked at, what was found and, for a fault, what to do."""
    word = "ok" if check.is_ok else "no" if is_no_xla(check) else "FAULT"
    rest = "" if check.is_ok else f"; {check.remedy}"
    return f"  {word:5s}  {check.what:11s}  {check.expected}: {check.found}{rest}"
