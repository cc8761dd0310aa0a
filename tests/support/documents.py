"""Made-up reports of `compare` and `tune` as documents."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from tests.support.reports import as_on_the_poster, cell
from tests.support.tuned import cell_of
from tfgradgen.evaluation.report.tables import to_markdown as compared
from tfgradgen.mcmc.recipe import default_recipe
from tfgradgen.tuning.gain import Validation
from tfgradgen.tuning.guard import Exact
from tfgradgen.tuning.objective import FRESH, Problem
from tfgradgen.tuning.report import to_markdown as tuned
from tfgradgen.tuning.search import COMPLETE, CONTROL, Plan, Trial
from tfgradgen.viewing.document import Document

HOSTILE = "</title></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'`{{ 7 * 7 }}**x**[a](b)|c\\&amp;\x1b[2J"


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8))


def a_comparison(warnings: Sequence[str] = (), label: str = "goldfish") -> Document:
    report = as_on_the_poster() | {"warnings": list(warnings), "labels": [label, "monarch"]}
    for row in report["rows"].values():
        row["labels"] = report["labels"]
    report["rows"]["rejection"]["values"] |= {"mmd": cell(0.01, 0.01), "mmd_p": cell(0.5)}
    report["rows"]["mala"]["failed"] = {label: f"no luck with {label}"}
    return Document(compared(report), {"curves.png": image(0), "grids.png": image(1)}, "table.csv has all figures.", "0")


def a_search(warnings: Sequence[str] = (), label: str = "one") -> Document:
    recipe = default_recipe("mala")
    means = {"class_prob": [0.4, 0.5, 0.6], "target": [1.0, 2.0, 3.0]}
    cells = [cell_of(value)._replace(chain_means=means) for value in (2.0, 3.0)]
    exact = {label: Exact(256, {"class_prob": 0.5, "target": 2.0}, {"class_prob": 0.01, "target": 0.1})}
    problems = [Problem(label, FRESH, k) for k in range(2)]
    trials = [Trial(0, CONTROL, recipe, cells), Trial(1, COMPLETE, recipe.changed({"step_size": 0.3}), cells)]
    validations = [Validation(trials[1], problems, cells, [cell_of(1.0)] * 2, exact)]
    text = tuned(Plan("mala", recipe, 400, 1, 4000.0, 0), exact, trials, validations, "the command", warnings)
    return Document(text, {"tuning.png": image(2)}, "tuning.csv has all trials.", "0")
