"""Measures time and peak memory of a few mala steps with a generator of the size of BigGAN-deep-256 (random weights).

All chains run at once, or in parts of --max_batch.

    python -m tools.bench.memory --work=work/memory [--num_chains=4] [--num_steps=10] [--max_batches=0,1]
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import fire
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
LABEL, GIB = "goldfish", 2**30


def main(work: str = "work/memory", num_chains: int = 4, num_steps: int = 10, max_batches: tuple[int, ...] = (0, 1)) -> None:
    """Print a row for each of `max_batches` (0: all chains at once), with the difference of its draws to the first row."""
    generator, classifier = build(Path(work).absolute())
    draws = []
    for max_batch in max_batches if isinstance(max_batches, list | tuple) else (max_batches,):
        out = Path(work).absolute() / f"run_{max_batch}"
        seconds, peak = run(
            [f"--generator={generator}", f"--classifier={classifier}", f"--num_chains={num_chains}"]
            + [f"--num_results={num_steps}", "--num_burnin_steps=0", "--init=prior", f"--out={out}", "--overwrite"]
            + ([f"--max_batch={max_batch}"] if max_batch else [])
        )
        with np.load(out / "samples.npz") as samples:
            draws.append(samples["z"])
        sampling = json.loads((out / "run.json").read_text())["seconds"]
        apart = np.abs(draws[-1] - draws[0]).max()
        cost = f"{sampling:.0f} s of sampling, {seconds:.0f} s in all, peak {peak / GIB:.1f} GiB"
        print(f"max_batch {max_batch or 'none'}: {cost}, {apart:.2g} from the first row's draws", flush=True)


def build(work: Path) -> tuple[Path, Path]:
    """Build stand-ins of the generator and of an ImageNet classifier, once, in a subprocess."""
    generator, classifier = work / "biggan-deep-256", work / "mobilenet"
    if not classifier.exists():
        code = (
            "import sys; from pathlib import Path; from tests import standins; "
            "standins.biggan_deep_256(Path(sys.argv[1])); "
            "standins.build('https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/classification/5', Path(sys.argv[2]))"
        )
        work.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-c", code, str(generator), str(classifier)], check=True, cwd=ROOT)
    return generator, classifier


def run(flags: list[str]) -> tuple[float, int]:
    """Return the seconds and the peak memory in bytes of `sample --kernel=mala` with `flags`."""
    start = time.monotonic()
    command = [sys.executable, "-m", "tfgradgen", "sample", f"--label={LABEL}", "--kernel=mala", *flags]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"memory: {' '.join(command)} failed; see above.")
    scale = 1 if sys.platform == "darwin" else 1024  # unit of ru_maxrss in bytes
    return time.monotonic() - start, usage.ru_maxrss * scale


if __name__ == "__main__":
    fire.Fire(main)
