"""Scores held-out photographs with the shipped judge and discriminator, as a reference for `compare`.

    python -m tools.cards.measure_photographs --data=PHOTOGRAPHS

PHOTOGRAPHS is a folder or .tar with `val/<name>/*.JPEG`. Writes saved_models/photographs/photographs.npz with features,
log-probabilities and pairwise similarities, but without the photographs.
"""

from pathlib import Path

from tools.command import run

ROOT = Path(__file__).resolve().parents[2]


def main(data):
    """Score the photographs and write the file."""
    from tfgradgen.core.quiet import start_tensorflow

    start_tensorflow()
    from tfgradgen.cli.compare import PHOTOGRAPHS_FILE
    from tfgradgen.evaluation.scored_images import load_observer, observe_photographs
    from tfgradgen.models.generator import load_generator
    from tools.train import photographs

    models = ROOT / "saved_models"
    observer = load_observer(models / "judge", models / "discriminator")
    names = [label.name for label in observer.judge.labels if not label.background]
    seen = observe_photographs(photographs.as_folder(data), names, observer, load_generator(models / "generator").image_shape)
    (models / "photographs").mkdir(exist_ok=True)
    seen.save(models / "photographs" / PHOTOGRAPHS_FILE)
    print(
        f"wrote {models / 'photographs' / PHOTOGRAPHS_FILE}: {sum(len(p.features) for p in seen.scored.values())} photographs"
    )


if __name__ == "__main__":
    run(main)
