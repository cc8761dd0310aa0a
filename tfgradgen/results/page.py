"""What report.html says of a run, from its record, draws and images."""

from typing import Any

import numpy as np
from PIL import Image

from tfgradgen.core.contracts import Draws
from tfgradgen.core.text import as_text
from tfgradgen.diagnostics.advice import priced
from tfgradgen.diagnostics.convergence import LATENT, shown_names
from tfgradgen.diagnostics.issues import MAX_TEXT, PAGES_FILE
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.media.medium import Medium
from tfgradgen.media.registry import medium_in
from tfgradgen.results.again import again
from tfgradgen.results.film import film_cells, shots_of
from tfgradgen.results.record import NEAREST
from tfgradgen.results.summary import MAX_PROBLEM, WORD, figure, measured, nearest_text, sizes_text
from tfgradgen.viewing.html import MOST_BYTES
from tfgradgen.viewing.report import Frame, Neighbour, Page, Tile, Verdict


def page_of(
    record: dict[str, Any],
    draws: Draws,
    stored: np.ndarray,
    film: Image.Image,
    plots: Image.Image,
    photographs: np.ndarray | None = None,
) -> Page:
    """Return the content of report.html.

    Args:
      record: The content of run.json.
      draws: The kept draws.
      stored: [num_chains, ...], the last draws as the run's medium stores them.
      film: film.png. If it is not a film of these draws, the page has none.
      plots: plots.png.
      photographs: uint8 [num_chains, height, width, 3], nearest to each image; None if none were sought.
    """
    medium, (num_results, num_chains) = medium_in(record, stored), draws.class_prob.shape
    images, played = medium.pictures(stored), _played(medium, stored)
    frames, made_again = _frames(draws, film, images.shape[1:3]), again(record)
    return Page(
        label=as_text(record["label"]["name"]),
        kernel=record["kernel"],
        about=f"{SAMPLERS[record['kernel']].about}: {sizes_text(record, num_results, num_chains)}",
        seed=record["seed"],
        draw=num_results - 1,
        tiles=[
            Tile(k, float(p), images[k], frames[k] if k < len(frames) else [], played[k], near)
            for k, (p, near) in enumerate(zip(draws.class_prob[-1], _neighbours(record, photographs, num_chains), strict=True))
        ],
        medium=medium,
        nearest_text=nearest_text(record[NEAREST]) if photographs is not None else "",
        measured=[(line[:WORD].strip(), line[WORD:]) for line in measured(record)],
        verdicts=_verdicts(record),
        plots=plots,
        plots_text=_plots_text(record, num_chains),
        command=made_again.command,
        note=made_again.note,
        version=as_text(record["versions"].get("tfgradgen", "")),
    )


def _played(medium: Medium, stored: np.ndarray) -> list[bytes]:
    """Return the file of each sound or clip, b"" beyond `MOST_BYTES` in all and for images."""
    files, left = [], MOST_BYTES if medium.is_small else 0
    for one in stored:
        content = medium.file(one) if left > 0 else b""
        left -= len(content)
        files.append(content if left >= 0 else b"")
    return files


def _neighbours(record: dict[str, Any], photographs: np.ndarray | None, num_chains: int) -> list[Neighbour | None]:
    """Return the nearest photograph of each image, or None for each."""
    if photographs is None:
        return [None] * num_chains
    tiles = record[NEAREST]["tiles"]
    return [
        Neighbour(image, as_text(tile["photograph"]), tile["distance"]) for image, tile in zip(photographs, tiles, strict=True)
    ]


def _verdicts(record: dict[str, Any]) -> list[Verdict]:
    """Return the lines of the diagnosis. The section that explains a warning is an entry of its own, not in the text."""
    verdicts = [Verdict("ok", as_text(line, MAX_TEXT), "") for line in record["passed"]]
    for problem, section in zip(record["problems"], record["warnings"], strict=True):
        text = as_text(problem, MAX_PROBLEM).removesuffix(f" ({PAGES_FILE}#{section})")
        verdicts.append(Verdict("warning", priced(text, record["seconds"]), section))
    return verdicts


def _plots_text(record: dict[str, Any], num_chains: int) -> str:
    """Return in words what plots.png shows."""
    names = shown_names(record["latent_dim"]) | {LATENT: f"z[{record['worst_coordinate']}]"}
    rows = [
        f"{names[name]}: R-hat {figure(found['rhat'])}, effective sample size {figure(found['ess'], 0)}"
        for name, found in record["statistics"].items()
    ]
    return f"Trace, rank and autocorrelation plots of {num_chains} chains. {'; '.join(rows)}."


def _frames(draws: Draws, film: Image.Image, size: tuple[int, ...]) -> list[list[Frame]]:
    """Return the frames of each row of `film`, of images of `size` (height, width); [] if it is not a film of `draws`."""
    shots, cells = shots_of(draws), film_cells(film, draws, size[0], size[1])
    num_rows = len(shots.class_prob)
    if cells is None:
        return []

    def cut(row: int, column: int) -> Image.Image:
        x, y = cells.place(row, column)
        tile = film.crop((x, y, x + cells.size[0], y + cells.size[1]))
        return tile.resize((size[1], size[0]), Image.Resampling.BOX)

    return [
        [
            Frame(draw, float(shots.class_prob[row, k]), bool(shots.is_still[row, k]), np.asarray(cut(row, k)))
            for k, draw in enumerate(shots.draws)
        ]
        for row in range(num_rows)
    ]
