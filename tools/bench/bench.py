"""Times the parts of a run, and compares the sampler with the bare gradient, PyTorch and BlackJAX.

    python -m tools.bench.bench [--label=goldfish] [--num_chains=16,64] [--repeats=7] [--threads=2] [--patience=30]
                          [--clock=wall] [--only=parts,commands,first,frameworks] [--python=PYTHON]

PYTHON runs PyTorch, JAX and BlackJAX (`pip install '.[bench]'` there); missing ones are left out. Seconds depend on the
machine; compare the shares and ratios. Each timing waits up to `--patience` seconds until other processes leave the cores idle,
and the last line reports how much they used. `--threads=1 --clock=cpu` measures CPU seconds of one thread, which are comparable
even on a busy machine. Parts and commands begin with an empty cache, as a first run does.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fire

from tools.bench.bench_worker import GRADIENT, SAMPLERS, Worker, WorkerError

ROOT = Path(__file__).resolve().parents[2]
TABLES = ("parts", "commands", "first", "frameworks")
OURS, THEIRS = "tensorflow", ("torch", "torch_compiled", "jax")
MOST = {"mala": 1.05, "hmc": 1.10}  # largest time per gradient, relative to the bare gradient
TOLERANCE = 1e-3  # between frameworks: nats of log densities; for a typical chain's gradient, relative to the largest entry
KINKS = 10  # times that for the gradient of any chain: rounding moves some activation to the other side of a ReLU's kink
SECONDS = 2.0  # approximate length of a timing
CLOCKS = {"wall": "seconds", "cpu": "cpu_seconds"}
CACHE = "TFGRADGEN_CACHE_DIR"
BUSY = 0.1  # largest share of the cores that other processes may use during a timing


def table(head, rows):
    """Print a Markdown table."""
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    sys.stdout.flush()


def spread(values):
    """Format the median and range of `values`."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else "-"


def timed(parts, name, fn):
    """Return `fn()`, and add its seconds to `parts`."""
    start = time.monotonic()
    result = fn()
    parts[name] = time.monotonic() - start
    return result


def parts_of_a_run(label, num_chains):
    """Print the times of the parts of a mala run in this process, and their shares."""
    parts: dict[str, float] = {}

    def start():
        from tfgradgen.core.quiet import start_tensorflow

        start_tensorflow()

    timed(parts, "importing TensorFlow and TFP", start)
    import tfgradgen as tg
    from tfgradgen.models.labels import resolve_labels

    generator, classifier = timed(parts, "loading the models", lambda: (tg.load_generator(), tg.load_classifier()))
    posterior = tg.ClassPosterior(generator, classifier, resolve_labels(classifier.labels, label)[0])
    run = tg.RunConfig(num_chains=num_chains)
    z = timed(parts, "choosing the starts", lambda: tg.initial_points(posterior, run)[0])
    mala = tg.SAMPLERS["mala"]
    draw = lambda steps: tg.sample_chains(posterior, "mala", mala.defaults, tg.Schedule(steps, 0, 0), run, z)  # noqa: E731
    timed(parts, "tracing and optimizing the graph, and 20 steps", lambda: draw(20))
    steps = mala.schedule.num_steps - 20
    timed(parts, f"{steps} further steps", lambda: draw(steps))
    total = sum(parts.values())
    rows = [(name, f"{seconds:.2f}", f"{seconds / total:.2f}") for name, seconds in parts.items()]
    table((f"parts of `sample --kernel=mala`, {num_chains} chains", "seconds", "share"), rows)


def whole_command(*flags):
    """Run `sample` in a subprocess.

    Returns:
      Seconds until the first draw of every chain is on disk (when it prints its first line of progress), seconds until it
      ended, and its peak memory in GB.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tfgradgen", "sample", *flags, f"--out={folder}/run"]
        start, first, lines = time.monotonic(), float("nan"), []
        environment = os.environ | {CACHE: f"{folder}/cache"}
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        )
        assert process.stderr
        for line in process.stderr:
            if first != first and " steps, " in line:
                first = time.monotonic() - start
            lines.append(line)
        _, status, usage = os.wait4(process.pid, 0)  # the usage of this child only
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stderr.close()
    if process.returncode:
        raise SystemExit(f"bench: {' '.join(command)} failed: {''.join(lines[-3:])}")
    return first, seconds, usage.ru_maxrss / 1e6


def show_commands(label):
    """Print seconds and peak memory of whole commands."""
    rows = []
    for kernel in (*SAMPLERS, "rejection"):
        _, seconds, memory = whole_command(f"--label={label}", f"--kernel={kernel}")
        rows.append((kernel, f"{seconds:.1f}", f"{memory:.2f}"))
    table(("whole command, defaults", "seconds", "peak memory, GB"), rows)


def show_first_draw(label, num_chains):
    """Print the seconds to the first draw, by kernel and number of chains."""
    rows = []
    one = ("--num_results=1", "--num_burnin_steps=0", "--num_adaptation_steps=0")
    for kernel in SAMPLERS:
        for count in num_chains:
            flags = (f"--label={label}", f"--kernel={kernel}", f"--num_chains={count}", *one)
            first, seconds, memory = whole_command(*flags)
            rows.append((kernel, count, f"{first:.1f}", f"{seconds:.1f}", f"{memory:.2f}"))
    head = ("kernel, one draw without burn-in", "chains", "seconds to the first draw", "whole command", "peak memory, GB")
    table(head, rows)


def busy_seconds():
    """Return the CPU seconds of all processes since the machine started; 0 if the system does not report them."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text(encoding="utf-8").split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def undisturbed(fn, patience):
    """Return the reply of `fn()` with `disturbed`, the share of the cores that other processes used; retry while it is large.

    Args:
      fn: () -> measurements, which include its own `cpu_seconds`.
      patience: Seconds after which the least disturbed reply so far is returned.
    """
    cores, end, best = os.cpu_count() or 1, time.monotonic() + patience, None
    while True:
        start, busy = time.monotonic(), busy_seconds()
        time.sleep(0.5)  # also lets the thread pools of other workers go idle
        idle = busy_seconds() - busy < BUSY * cores * (time.monotonic() - start)
        if idle or time.monotonic() > end:
            start, busy = time.monotonic(), busy_seconds()
            reply = fn()
            others = busy_seconds() - busy - reply["cpu_seconds"]
            reply["disturbed"] = max(0.0, others / (cores * (time.monotonic() - start)))
            if best is None or reply["disturbed"] < best["disturbed"]:
                best = reply
            if best["disturbed"] < BUSY or time.monotonic() > end:
                return best


def start_workers(folder, label, python):
    """Return {framework: Worker} for this package and for the other frameworks that are installed."""
    script = ("-m", "tools.bench.bench_worker")
    workers = {OURS: Worker([sys.executable, *script, OURS, folder, f"--label={label}"])}
    for name in THEIRS:
        attempt(workers, name, lambda: workers.update({name: Worker([python, *script, name, folder])}))  # noqa: B023
    for worker in workers.values():
        print(worker.title, flush=True)
    return workers


def attempt(workers, name, fn):
    """Return the result of `fn`; if another framework fails, remove it, print that and return None."""
    try:
        return fn()
    except WorkerError as error:
        if name == OURS:
            raise
        print(f"{name} is left out: {error}", flush=True)
        workers.pop(name, None)
        return None


def check_same(workers, latent_dim, num_chains=16):
    """Raise SystemExit if another framework computes other values than this package."""
    replies = {}
    for name, worker in list(workers.items()):
        replies[name] = attempt(workers, name, lambda: worker.ask(do="check", num_chains=num_chains, latent_dim=latent_dim))  # noqa: B023
    largest = largest_difference(replies[OURS]["gradient"], [[0.0] * latent_dim] * num_chains)
    for name in workers.keys() - {OURS}:
        value = largest_difference(replies[OURS]["value"], replies[name]["value"])
        chains = zip(replies[OURS]["gradient"], replies[name]["gradient"], strict=True)
        gradients = sorted(largest_difference(ours, theirs) / largest for ours, theirs in chains)
        typical, worst = statistics.median(gradients), gradients[-1]
        if not (value < TOLERANCE and typical < TOLERANCE and worst < KINKS * TOLERANCE):
            text = (
                f"bench: {name} differs by {value} nats, and its gradient by {typical} of the largest entry in a typical chain"
            )
            raise SystemExit(f"{text} and {worst} in any, so nothing is timed; compare the networks.")
        shown = f"gradient within {typical:.0e} of its largest entry in a typical chain, {worst:.0e} in any"
        print(f"{name}: log density within {value:.0e} nats of ours, {shown}")


def largest_difference(ours, theirs):
    """Return the largest difference of two equally nested lists of numbers; infinite if one is NaN."""
    if isinstance(ours, list):
        return max(largest_difference(a, b) for a, b in zip(ours, theirs, strict=True))
    difference = abs(ours - theirs)
    return difference if difference == difference else float("inf")


def measure(workers, num_chains, latent_dim, repeats, patience, clock):
    """Return interleaved timings {(framework, task): one entry per repeat}, so that all have the same load of the machine."""
    asked = {}
    for name, task in [(name, task) for name, worker in workers.items() for task in worker.tasks]:
        request = dict(do="time", task=task, num_chains=num_chains, latent_dim=latent_dim, num_gradients=3)
        if name in workers and attempt(workers, name, lambda: workers[name].ask(**request)):  # compiles  # noqa: B023
            warm = workers[name].ask(**request)
            asked[name, task] = request | {"num_gradients": max(3, round(SECONDS * warm["gradients"] / warm["seconds"]))}
    timings: dict[tuple[str, str], list[dict[str, float]]] = {key: [] for key in asked if key[0] in workers}
    for repeat in range(repeats):
        for name, task in sorted(timings, reverse=repeat % 2 == 1):
            timed = undisturbed(lambda: workers[name].ask(**asked[name, task]), patience)  # noqa: B023
            timings[name, task].append(timed | {"per_gradient": timed[CLOCKS[clock]] / timed["gradients"]})
    return timings


def ratios(timings, one, other):
    """Return the ratios of seconds per gradient of `one` and `other`, one per repeat; [] if one could not be measured."""
    pairs = zip(timings.get(one, ()), timings.get(other, ()), strict=False)
    return [a["per_gradient"] / b["per_gradient"] for a, b in pairs]


def show_frameworks(label, num_chains, repeats, patience, clock, python):
    """Print timings and peak memory of all frameworks."""
    with tempfile.TemporaryDirectory() as folder:
        workers = start_workers(folder, label, python)
        latent_dim = workers[OURS].latent_dim
        check_same(workers, latent_dim)
        timings, memory = {}, {}
        for count in num_chains:
            timings[count] = measure(workers, count, latent_dim, repeats, patience, clock)
            memory[count] = {name: worker.ask(do="memory")["gigabytes"] for name, worker in workers.items()}
        titles = {name: worker.title for name, worker in workers.items()}
        for worker in workers.values():
            worker.close()
    chains = [f"{count} chains" for count in num_chains]
    rows = [
        (name, *(spread(ratios(timings[n], (OURS, name), (OURS, GRADIENT))) for n in num_chains), f"{MOST[name]:.2f}")
        for name in SAMPLERS
    ]
    table(("seconds per gradient, relative to the bare value and gradient", *chains, "at most"), rows)
    rows = [
        (task, titles[name], *(spread(ratios(timings[n], (name, task), (OURS, task))) for n in num_chains))
        for name, task in timings[num_chains[0]]
        if name != OURS
    ]
    table(("seconds per gradient of another framework, relative to this package", "framework", *chains), rows)
    rows = []
    for (name, task), first in timings[num_chains[0]].items():
        times = [[timing["per_gradient"] for timing in timings[n].get((name, task), ())] for n in num_chains]
        milliseconds = [f"{1e3 * statistics.median(values):.1f}" if values else "-" for values in times]
        accepted = f"{first[0]['accept_rate']:.2f}" if "accept_rate" in first[0] else "-"
        rows.append((titles[name], task, *milliseconds, accepted))
    table((f"milliseconds per gradient, median, {clock} clock", "task", *chains, "accepted, from the prior"), rows)
    rows = [(titles[name], *(f"{memory[n][name]:.2f}" if name in memory[n] else "-" for n in num_chains)) for name in titles]
    table(("peak memory of the process so far, GB", *chains), rows)
    shares = [timing["disturbed"] for n in num_chains for timed in timings[n].values() for timing in timed]
    print(
        f"\nOther processes used {statistics.median(shares):.0%} of the cores in the median timing, {max(shares):.0%} at most."
    )


def main(
    label="goldfish", num_chains=(16, 64), repeats=7, threads=2, patience=30, clock="wall", only=TABLES, python=sys.executable
):
    """Print the tables named by `only`: parts of a mala run, whole commands, the first draw, and the frameworks."""
    counts = (num_chains,) if isinstance(num_chains, int) else tuple(num_chains)
    wanted = (only,) if isinstance(only, str) else tuple(only)
    if not set(wanted) <= set(TABLES):
        raise SystemExit(f"bench: expected --only to be some of {', '.join(TABLES)}, got {only!r}; give some of these.")
    if clock not in CLOCKS:
        raise SystemExit(f"bench: expected --clock to be one of {', '.join(CLOCKS)}, got {clock!r}; give one of these.")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # frameworks use as many threads as cores are available
    with tempfile.TemporaryDirectory() as cache:
        os.environ[CACHE] = cache
        if "parts" in wanted:
            parts_of_a_run(label, counts[0])
        if "commands" in wanted:
            show_commands(label)
        if "first" in wanted:
            show_first_draw(label, counts)
        if "frameworks" in wanted:
            show_frameworks(label, counts, repeats, patience, clock, python)


if __name__ == "__main__":
    fire.Fire(main)
