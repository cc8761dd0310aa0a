"""Makes the README's images from runs of the command, and prints the numbers of its tables.

    for k in mala hmc; do python -m tfgradgen sample --label=goldfish --kernel=$k; done
    python -m tfgradgen sample --label=goldfish --kernel=rejection --seed=1
    python -m tfgradgen sample --label=all --kernel=mala
    python -m tfgradgen sample --models=speech --label=seven --kernel=rejection
    python -m tfgradgen sample --models=actions --label=jumping_jack --kernel=rejection
    python -m tfgradgen sample --text="a red thing on a white background" --kernel=rejection --out=out/text
    python -m tools.make_pictures --runs=out --data=PHOTOGRAPHS [--label=goldfish]

PHOTOGRAPHS is a folder or .tar with `val/<label>/*.JPEG`, held-out photographs for comparison. The exact draws have a seed of
their own, because chains start at prior draws of the same seed.
"""

import json
from pathlib import Path

import fire
import numpy as np
from PIL import Image

from tools.train import photographs

PANELS = (("rejection-1", "exact draws"), ("mala-0", "mala"), ("hmc-0", "hmc"))  # run (kernel and seed) and title
NUM_TILES = 16
SHEET_TILES = (4, 8)  # photographs and samples in one row of the sheet
# Rows of media.png: the run, its number of tiles, and the title.
MEDIA = (
    ("speech-seven-rejection-0", 8, 'sounds of "seven", as spectrograms'),
    ("actions-jumping_jack-rejection-0", 4, 'clips of "jumping_jack", four frames of each'),
    ("text", 16, 'images of "a red thing on a white background"'),
)


def side_by_side(grids):
    """Join images horizontally."""
    strip = Image.new("RGB", (sum(grid.width for grid in grids), max(grid.height for grid in grids)), "white")
    for k, grid in enumerate(grids):
        strip.paste(grid, (sum(g.width for g in grids[:k]), 0))
    return strip


def comparison(runs, label, prior, held_out, make_grid):
    """Return five panels of one label, and print a table row for each kernel."""
    panels = [(prior, "prior draws")]
    print("| kernel | mean p(class) | acceptance (target) | bulk ESS | gradients per chain |\n|---|---|---|---|---|")
    for run, title in PANELS:
        folder = Path(runs) / f"{label}-{run}"
        with np.load(folder / "samples.npz") as samples:
            panels.append((samples["image"], title))
        record = json.loads((folder / "run.json").read_text())
        stat, config = record["statistics"]["class_prob"], record["arguments"]["kernel_config"]
        target = f" ({config['target_accept_prob']})" if config else ""
        gradients = record["num_gradients"] // record["arguments"]["num_chains"]
        print(
            f"| {title} | {stat['mean']:.3f} +- {stat['standard_error']:.3f} | {record['accept_rate']:.2f}{target} "
            f"| {stat['ess_bulk']:.0f} | {gradients or '-'} |"
        )
    panels.append((held_out, "photographs, held out"))
    return side_by_side([make_grid(images[:NUM_TILES], title=title, tile_size=64) for images, title in panels])


def sheet(folder, names, data, judge, make_grid):
    """Return one row per class, photographs then samples with their p(class), and print the accuracy of the judge."""
    tiles, captions, shown, right = [], [], [], {}
    num_photographs, num_samples = SHEET_TILES
    for index, name in enumerate(names):
        with np.load(folder / name / "samples.npz") as samples:
            image, prob = samples["image"], samples["class_prob"][-1]
        shown.append(photographs.load(data, "val", [name])[0][:num_photographs])
        tiles.append(image[:num_samples])
        captions += [f"{p:.2f}" for p in prob[:num_samples]]
        right[name] = float(np.mean(photographs.in_batches(judge, image).argmax(1) == index))
    print(f"\njudge's accuracy on {folder.name}: {np.mean(list(right.values())):.3f} over all classes")
    print(", ".join(f"{name} {value:.2f}" for name, value in right.items()))
    names_below = [name if k == 0 else " " for name in names for k in range(num_photographs)]
    return side_by_side(
        [
            make_grid(np.concatenate(shown), names_below, num_photographs, 64, "photographs, held out"),
            make_grid(np.concatenate(tiles), captions, num_samples, 64, "mala, with p(class)"),
        ]
    )


def media(runs, make_grid):
    """Return a row of sounds, one of clips and one of images that a text describes."""
    from tfgradgen import load_run

    rows = [
        make_grid(load_run(Path(runs) / run).images[:count], title=title, num_columns=count, tile_size=64)
        for run, count, title in MEDIA
    ]
    joined = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    for k, row in enumerate(rows):
        joined.paste(row, (0, sum(above.height for above in rows[:k])))
    return joined


def main(runs, data, label="goldfish", out="tools/pictures"):
    """Write into `out` <label>.png (the grid of the mala run), comparison.png (five panels), sheet.png and media.png."""
    from tfgradgen import load_classifier, load_generator
    from tfgradgen.core.backend import as_seed
    from tfgradgen.io.images import make_grid, save_png
    from tfgradgen.media.image import to_uint8
    from tfgradgen.models.shipped import default_model
    from tfgradgen.posterior import ClassPosterior

    classifier, judge = (load_classifier(default_model(name)) for name in ("classifier", "judge"))
    posterior = ClassPosterior(load_generator(default_model("generator")), classifier, 0)
    prior = to_uint8(posterior.generator(posterior.sample_prior(NUM_TILES, as_seed(0))))
    held_out, _ = photographs.load(data, "val", [label])
    names = [entry.name for entry in classifier.labels if not entry.background]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    save_png(folder / "comparison.png", comparison(runs, label, prior, held_out, make_grid))
    save_png(folder / "sheet.png", sheet(Path(runs) / "all-mala-0", names, data, judge, make_grid))
    save_png(folder / "media.png", media(runs, make_grid))
    (folder / f"{label}.png").write_bytes((Path(runs) / f"{label}-mala-0" / "grid.png").read_bytes())


if __name__ == "__main__":
    fire.Fire(main)
