"""Measures the compiled samplers on a GPU, by XLA programs that tools/device/export_programs.py wrote.

    python -m tools.device.measure_sampler [--folder=device_in] [--out=device_out] [--seconds=300] [--wait_for=FILE]

It needs JAX and NumPy. The parts `torch` and `blackjax` also need the packages of the extra `bench`, and SciPy. Each part runs
in a process of its own, with its own share of the time, so that none can take down or slow another. The parts, most important
first:

- programs: the programs against the references, and the seconds of a gradient;
- precision: the same programs with products in TF32 and bfloat16, and with gradients in bfloat16;
- errors: how far log densities and gradients in lower precision are from float32;
- torch: the bare value and gradient in PyTorch;
- blackjax: the bare value and gradient in JAX, and BlackJAX's kernels;
- large: the pair of the size of BigGAN-deep-128.

With `--wait_for`, all parts compile at once beside another program that uses the GPU. They measure, one after the other, when
that program has written FILE.

All records go to `records.jsonl` as they come, then to `measures.json`. A table is printed last.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tools.device.framework_parts import blackjax_part, torch_part
from tools.device.program_parts import errors_part, large_part, precision_part, programs_part
from tools.device.recorder import Recorder

SHARES = {
    "programs": 0.45,
    "precision": 0.5,
    "errors": 0.2,
    "torch": 0.5,
    "blackjax": 0.5,
    "large": 1.0,
}  # of the time that is left


PARTS = {
    "programs": programs_part,
    "precision": precision_part,
    "errors": errors_part,
    "torch": torch_part,
    "blackjax": blackjax_part,
    "large": large_part,
}


def run_part(part: str, path: Path, seconds: float, turn: Path | None) -> None:
    """Run one part in this process."""
    recorder = Recorder(path, seconds, turn)
    try:
        PARTS[part](recorder)
    except ImportError as error:
        recorder.put("missing", what=part, error=f"{part} DID NOT RUN: {error}")
    except Exception as error:
        traceback.print_exc()
        recorder.put("failed", what=part, error=f"{type(error).__name__}: {str(error)[:300]}")


def main(
    folder: str = "device_in",
    out: str = "device_out",
    seconds: float = 300.0,
    parts: str = ",".join(PARTS),
    max_chains: int | None = None,
    wait_for: str = "",
    max_wait: float = 480.0,
    threads: int = 1,
) -> None:
    """Run the parts one after the other, each in a process, and print a table.

    Args:
      folder: What `export_programs` wrote.
      out: Where the records go.
      seconds: Time for all parts, after the wait.
      parts: Which ones, with commas between.
      max_chains: Leave out programs for more chains.
      wait_for: Compile all parts at once; measure when this file exists.
      max_wait: Seconds after which the parts no longer wait for it, and measure beside what else runs.
      threads: Programs that are compiled at the same time.
    """
    records = Path(out).absolute() / "records.jsonl"
    records.parent.mkdir(parents=True, exist_ok=True)
    records.unlink(missing_ok=True)
    # XLA takes memory as it needs it: the networks of PyTorch need it next.
    env = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        **os.environ,
        "DEVICE_FOLDER": str(Path(folder).absolute()),
        "DEVICE_THREADS": str(threads),
    }
    if max_chains:
        env["DEVICE_MAX_CHAINS"] = str(max_chains)
    chosen = parts.split(",")
    if wait_for:
        env.setdefault("MEASURE_SECONDS", "0.3")

    def started(part: str, seconds: float) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "tools.device.measure_sampler",
            f"--part={part}",
            f"--seconds={seconds}",
            f"--out={out}",
        ]
        return subprocess.Popen([*command, f"--turn={turn_of(part)}"] if wait_for else command, env=env)

    turn_of = lambda part: records.parent / f"turn_{part}"  # noqa: E731
    for part in chosen:
        turn_of(part).unlink(missing_ok=True)
    whole = Recorder(records, seconds)
    whole.put("start", parts=parts, seconds=seconds, xla_flags=env.get("XLA_FLAGS", ""))
    running = {part: started(part, seconds) for part in chosen} if wait_for else {}
    if wait_for:
        begin = time.monotonic()
        while not Path(wait_for).exists() and time.monotonic() - begin < max_wait:
            time.sleep(0.1)
        whole.put("waited", seconds=time.monotonic() - begin, came=Path(wait_for).exists())
    end = time.monotonic() + seconds
    for part in chosen:
        left = end - time.monotonic()
        share = left * (1.0 if part == chosen[-1] else SHARES[part])
        if share < (1 if wait_for else 5):
            whole.put("skipped", what=part, why="the time is up")
            continue
        print(f"== {part}: at most {share:.0f} s", flush=True)
        start = time.monotonic()
        process = running.get(part) or started(part, share)
        if wait_for:
            draft = turn_of(part).with_suffix(".new")
            draft.write_text(str(share), encoding="utf-8")
            draft.replace(turn_of(part))
        try:
            code = process.wait(share + 10)
            if code:
                whole.put("failed", what=part, error=f"exit code {code}")
        except subprocess.TimeoutExpired:
            process.kill()
            whole.put("skipped", what=f"the rest of {part}", why="the time is up")
        print(f"== {part}: {time.monotonic() - start:.0f} s", flush=True)
    for process in running.values():
        process.kill()
    for part in chosen:
        turn_of(part).unlink(missing_ok=True)
    found = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    (records.parent / "measures.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print("\n".join(table_of(found)), flush=True)


def table_of(records: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a short table."""
    of = lambda kind: [record for record in records if record["kind"] == kind]  # noqa: E731
    lines = [f"device: {r['name']}, JAX {r['jax']}" for r in of("device")[:1]]
    peaks = {r["precision"]: f"{r['precision']} {r['tflops']:.1f}" for r in of("peak")}
    lines += [f"peak TFLOP/s of a product: {', '.join(peaks.values())}"] if peaks else []
    lines += [f"{r['kernel']}: {r['gflop_per_gradient']:.3f} GFLOP a gradient of one chain" for r in of("flop")]
    bits = of("bits")
    if bits:
        worst = max(bits, key=lambda r: r["difference"] / r["tolerance"] if r["tolerance"] else 0.0)
        good = sum(r["ok"] for r in bits)
        lines.append(
            f"against CPU: {good} of {len(bits)} within tolerance; nearest to it: {worst['what']}, {worst['difference']:.2g}"
        )
        lines += [f"  OUT OF TOLERANCE {r['what']}: {r['difference']:.2g} > {r['tolerance']:.2g}" for r in bits if not r["ok"]]
    lines += [f"  NUMBER OF GRADIENTS DIFFERS {r['what']}" for r in of("cost") if not r["ok"]]
    lines += [f"  {r['what']}: {r['other_than_cpu']} of {r['chains']} chains decide otherwise" for r in of("decisions")]
    for r in of("sampler"):
        share = f"{r['share_of_peak']:.1%} of peak" if r["share_of_peak"] else "no peak"
        lines.append(
            f"{r['kernel']:12} {r['chains']:5} chains {r['precision']:18} {1e3 * r['seconds_per_gradient']:9.3f} ms, "
            f"{r['tflops']:.2f} TFLOP/s, {share}, accepts {r['accept_prob']:.4f} +- {r['accept_prob_error']:.4f}"
        )
    lines += [f"error {r['precision']}: log density {r['log_density']:.2g}, gradient {r['gradient']:.2g}" for r in of("error")]
    for r in of("framework"):
        name = f"{r['framework']} {r['task']}"
        lines.append(
            f"{name:32} {r['chains']:5} chains {r['precision']:9} {1e3 * r['seconds_per_gradient']:9.3f} ms a gradient"
        )
    lines += [f"{r['what']}: log density {r['log_density']:.2g} from the reference" for r in of("agreement")]
    lines += [
        f"{r['kind'].upper()} {r['what']}: {r.get('error') or r.get('why')}"
        for kind in ("missing", "failed", "skipped")
        for r in of(kind)
    ]
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="device_in")
    parser.add_argument("--out", default="device_out")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--max_chains", type=int)
    parser.add_argument("--wait_for", default="", help="compile first; measure when this file exists")
    parser.add_argument("--max_wait", type=float, default=480.0, help="seconds after which the file is not waited for")
    parser.add_argument("--threads", type=int, default=1, help="programs that are compiled at the same time")
    parser.add_argument("--turn", type=Path, help="of --part: the file with its time, which comes when it may measure")
    parser.add_argument("--part", help="run this part only, in this process")
    given = parser.parse_args()
    if given.part:
        run_part(given.part, Path(given.out).absolute() / "records.jsonl", given.seconds, given.turn)
        sys.stdout.flush()
        os._exit(0)  # threads that still compile would keep the process alive
    main(given.folder, given.out, given.seconds, given.parts, given.max_chains, given.wait_for, given.max_wait, given.threads)
