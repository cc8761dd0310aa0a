"""What the shipped judge and discriminator see of held-out photographs, as `compare` holds methods against it:

    python -m tools.cards.measure_photographs --data=PHOTOGRAPHS

PHOTOGRAPHS, a folder or .tar, hold `val/<name>/*.JPEG`. Writes saved_models/photographs/photographs.npz: features,
log-probabilities and pairwise similarities, no photograph.
"""

from pathlib import Path

import fire

ROOT = Path(__file__).resolve().parents[2]


def main(data):
    """Measures and writes."""
    from tfgradgen.core.quiet import start_tensorflow

    start_tensorflow()
    from tfgradgen.cli.compare import PHOTOGRAPHS_FILE
    from tfgradgen.evaluation.pictures import load_observer, observe_photographs
    from tfgradgen.models.generator import load_generator
    from tools.train import photographs

    models = ROOT / "saved_models"
    observer = load_observer(models / "judge", models / "discriminator")
    names = [label.name for label in observer.judge.labels if not label.background]
    seen = observe_photographs(photographs.as_folder(data), names, observer, load_generator(models / "generator").image_shape)
    (models / "photographs").mkdir(exist_ok=True)
    seen.save(models / "photographs" / PHOTOGRAPHS_FILE)
    print(
        f"wrote {models / 'photographs' / PHOTOGRAPHS_FILE}: {sum(len(p.features) for p in seen.pictures.values())} photographs"
    )


if __name__ == "__main__":
    fire.Fire(main)
