"""Measures all numbers in the model cards (MODEL.md) of saved_models/ again, and fails if one has changed.

    python -m tools.cards.check_models [--data=PHOTOGRAPHS] [--others=PHOTOGRAPHS] [--only=judge,discriminator]
        [--quick] [--write]

PHOTOGRAPHS are the training photographs, a folder or .tar with `train/<name>/*.JPEG`, and for --data also with
`val/<name>/*.JPEG`. `--only` selects models; `--quick` leaves out the chains, whose numbers stay in the card; `--write` first
writes the numbers into the cards.
"""

import re
from pathlib import Path

from tools.command import run

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("text", "classifier", "judge", "discriminator", "generator")  # fastest first
# Folders of saved_models/, and the megabytes that they may take together.
MAX_MEGABYTES = {("generator", "classifier", "judge", "discriminator"): 30, ("text",): 4}
CHAINS = "reach of "  # begins the rows that take chains
CALIBRATED = """Temperature and the weight of "other" are fitted on the held-out photographs. With so few photographs the
calibration error is mostly chance, so the error that chance alone gives stands beside it."""
REMARKS = {
    "classifier": """With "other" left out, p says which of the classes a photograph shows, given that it shows one, as all
of these do. The aim of 0.87 for the accuracy is reached in this sense only: the network learned what a generator gets wrong,
and calls some photographs "other", too. With so few photographs the calibration error is partly chance, so the error that
chance alone gives stands beside it. "The judge's agreement with exact posterior draws" weights prior draws by p(class), as
rejection sampling would. The temperature and the bias of "other" were chosen with these photographs and this judge.""",
    "judge": CALIBRATED,
    "discriminator": """The held-out photographs and draws took part in no training, but the temperature was fitted to the
photographs. Of images that it is unsure of, fewer are natural than it says.""",
    "text": """A caption is one of many that fit, and may fit other photographs too, so no recall can reach 1. Colours are
those measured in the central disc and in the rim, if one of them fills more than half of the region. The exact draws are the
generator's prior draws, weighted by p(text), as rejection sampling would.""",
    "generator": """Features are those of the signature `features` of each network, scaled to unit mean square. KID is
the unbiased squared MMD with the cubic kernel.""",
}
REMARK_OF_CHAINS = """Annealed starts are those of `--init=annealed`, prior draws those of `--init=prior`. The chains have
bolder settings than the defaults of `sample` (acceptance 0.4; hmc with two leapfrog steps)."""


NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def agree(text, figure):
    """Return whether a card's `text` agrees with a measured figure: equal words, and numbers within the tolerance."""
    if "`" in figure.text:  # a checksum
        return text == figure.text
    old, new = ([float(number) for number in NUMBER.findall(t)] for t in (text, figure.text))
    same_words = NUMBER.sub("#", text) == NUMBER.sub("#", figure.text)
    tolerances = figure.tolerance if isinstance(figure.tolerance, tuple) else [figure.tolerance] * len(new)
    return same_words and all(abs(a - b) <= most for a, b, most in zip(old, new, tolerances, strict=True))


def differences(card, measured):
    """Return one line for each difference between a card {what: text} and the measured {what: Figure}."""
    lines = [f"{what}: in the card, but not measured" for what in card if what not in measured]
    for what, figure in measured.items():
        if what not in card or not agree(card[what], figure):
            lines.append(f"{what}: the card says {card.get(what, 'nothing')}, measured {figure.text}")
    return lines


def main(
    data=str(ROOT.parent / "shared/data/tiny_imagenet_20.tar"),
    others=str(ROOT.parent / "shared/data/tiny_imagenet_rest.tar"),
    only=MODELS,
    quick=False,
    write=False,
):
    """Measure the cards; exit with 1 and one line for each number that has changed."""
    wanted = [only] if isinstance(only, str) else list(only)
    if not set(wanted) <= set(MODELS):
        raise SystemExit(f"check_models: expected --only to be some of {', '.join(MODELS)}, got {only!r}; give some of these.")
    for photographs in (data, others):
        if not Path(photographs).exists():
            raise SystemExit(f"check_models: expected photographs at {photographs}, got nothing; give --data and --others.")
    from tfgradgen.core.quiet import start_tensorflow

    start_tensorflow()
    from tools.cards import figures
    from tools.cards.evidence import Evidence
    from tools.cards.text_figures import text_figures
    from tools.train.export import read_measured, write_measured

    folder = ROOT / "saved_models"
    evidence = Evidence(folder, data, others)
    say = lambda text: print(text, flush=True)  # noqa: E731
    measure = {
        "text": lambda: text_figures(evidence),
        "classifier": lambda: figures.classifier_figures(evidence, "classifier", False) | figures.guidance_figures(evidence),
        "judge": lambda: figures.classifier_figures(evidence, "judge", True),
        "discriminator": lambda: figures.discriminator_figures(evidence),
        "generator": lambda: figures.generator_figures(evidence, say) | ({} if quick else figures.reach_figures(evidence, say)),
    }
    off = []
    for name in wanted:
        measured = measure[name]()
        for what, figure in measured.items():
            say(f"{name}: {what}: {figure.text}")
        card = read_measured(folder / name)
        kept = {what: text for what, text in card.items() if quick and what.startswith(CHAINS)}
        if write:
            card = {what: figure.text for what, figure in measured.items()} | kept
            has_chains = any(what.startswith(CHAINS) for what in card)
            write_measured(folder / name, card, "\n".join([REMARKS[name], *[REMARK_OF_CHAINS] * has_chains]))
        card = {what: text for what, text in card.items() if what not in kept}
        off += [f"{name}: {line}" for line in differences(card, measured)]
    figures.conclude(off, folder, MAX_MEGABYTES)


if __name__ == "__main__":
    run(main)
