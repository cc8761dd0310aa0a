"""Makes the README's pictures from runs of the command, and prints the figures of its table:

    for k in mala hmc rejection; do python -m tfgradgen sample --label=goldfish --kernel=$k; done
    python tools/make_pictures.py --runs=out --data=FOLDER [--label=goldfish]

FOLDER holds `val/<label>/*.JPEG`, held-out photographs to compare with.
"""

import json
import sys
from pathlib import Path

import fire
import numpy as np
import photographs
from PIL import Image

PANELS = (("rejection", "exact draws"), ("mala", "mala"), ("hmc", "hmc"))
NUM_TILES = 16


def main(runs, data, label="goldfish", out="tools/pictures"):
    """Writes <label>.png, the grid of the mala run, and comparison.png, five panels side by side, into `out`."""
    from tfgradgen import load_classifier, load_generator
    from tfgradgen.backend import as_seed
    from tfgradgen.cli.options import default_model
    from tfgradgen.images import make_grid, save_png, to_uint8
    from tfgradgen.posterior import ClassPosterior

    posterior = ClassPosterior(load_generator(default_model("generator")), load_classifier(default_model("classifier")), 0)
    prior = to_uint8(posterior.generator(posterior.sample_prior(NUM_TILES, as_seed(0))))
    held_out, _ = photographs.load(data, "val", [label])
    panels = [(prior, "prior draws")]
    print("| kernel | mean p(class) | acceptance (target) | effective draws | gradients a chain |\n|---|---|---|---|---|")
    for kernel, title in PANELS:
        folder = Path(runs) / f"{label}-{kernel}-0"
        with np.load(folder / "samples.npz") as samples:
            panels.append((samples["image"], title))
        record = json.loads((folder / "run.json").read_text())
        stat, config = record["statistics"]["class_prob"], record["arguments"]["kernel_config"]
        target = f" ({config['target_accept_prob']})" if config else ""
        gradients = record["num_gradients"] // record["arguments"]["num_chains"]
        print(
            f"| {title} | {stat['mean']:.3f} +- {stat['standard_error']:.3f} | {record['accept_rate']:.2f}{target} "
            f"| {stat['ess']:.0f} | {gradients or '-'} |"
        )
    panels.append((held_out, "photographs, held out"))
    grids = [make_grid(images[:NUM_TILES], title=title, tile_size=64) for images, title in panels]
    width = sum(grid.width for grid in grids)
    strip = Image.new("RGB", (width, grids[0].height), "white")
    for k, grid in enumerate(grids):
        strip.paste(grid, (sum(g.width for g in grids[:k]), 0))
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    save_png(folder / "comparison.png", strip)
    (folder / f"{label}.png").write_bytes((Path(runs) / f"{label}-mala-0" / "grid.png").read_bytes())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    fire.Fire(main)
