"""How a comparison is shown: figures, tables, findings and curves of reports made by hand."""

import csv
import io
from typing import Any

import numpy as np
import pytest

from tests.support.reports import Cell, as_on_the_poster, cell, make, natural, row
from tfgradgen.evaluation.report.catalogue import MEASURES, Value
from tfgradgen.evaluation.report.curves import plot_curves
from tfgradgen.evaluation.report.figures import shown
from tfgradgen.evaluation.report.findings import claim, exact_is_closest, poster_order, which_to_use
from tfgradgen.evaluation.report.tables import CSV_COLUMNS, to_csv, to_markdown


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (-6.0, 0.31, "-6.00 ± 0.31"),
        (-6.0, 0.3, "-6.00 ± 0.30"),
        (0.123456, 0.0996, "0.12 ± 0.10"),
        (0.5, 0.0, "0.500 ± 0"),
        (1234.5, 12.3, "1234 ± 12"),
        (1234.5, 120.0, "1230 ± 120"),
        (0.123456, None, "0.123"),
        (104.4, None, "104"),
        (0.0, None, "0.00"),
        (3.21e-5, 1.0e-6, "3.21e-05 ± 1.0e-06"),
        (2.5e-7, None, "2.50e-07"),
    ],
)
def test_digits_fit_the_error(value: float, error: float | None, expected: str) -> None:
    assert shown(Value(value, error)) == expected


def lines_of(page: str, name: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith(f"| `{name}`")]


def test_best_values_are_bold_and_references_never() -> None:
    page = to_markdown(
        make(
            photographs=row("reference", kid=cell(-0.5, 0.01)),
            mala=row("chain", kid=cell(0.10, 0.01), mmd_p=cell(0.5)),
            hmc=row("chain", kid=cell(0.11, 0.01), mmd_p=cell(0.4)),
            smc=row("particles", kid=cell(0.12, 0.01)),
        )
    )
    for name, expected in {"photographs": "-0.500", "mala": "**0.100", "hmc": "**0.110", "smc": "0.120"}.items():
        assert f"| {expected} ± 0.010" in lines_of(page, name)[0]
    assert "**0.5" not in page  # neither direction of a p-value is better


def test_values_beyond_the_ideal_are_not_better() -> None:
    page = to_markdown(make(mala=row("chain", c2st=cell(0.44, 0.01)), hmc=row("chain", c2st=cell(0.5, 0.01))))
    assert "**0.440" in page
    assert "**0.500" in page


def test_absent_and_failed_are_said() -> None:
    report = make(
        mala=row("chain", log_natural=cell(-6, 0.3), kid=cell(float("nan"))), hmc=row("chain"), rejection=row("exact")
    )
    report["rows"]["hmc"] |= {"values": {}, "labels": [], "failed": {"goldfish": "too slow", "monarch": "diverged"}}
    report["rows"]["rejection"] |= {"labels": ["goldfish"], "failed": {"monarch": "too rare"}}
    page = to_markdown(report)
    for line in ("failed: goldfish with hmc: too slow", "failed: monarch with hmc: diverged", "failed: monarch with rejection"):
        assert page.count(line) == 1
    assert lines_of(page, "hmc")[0].split("|")[2:-1] == [" - "] * 7
    assert "nan" not in page
    assert lines_of(page, "rejection")[0].startswith("| `rejection` (goldfish) |")


def test_a_report_says_what_its_medium_is_called() -> None:
    sounds = {"medium": {"kind": "sound", "shape": [640], "rate": 8000.0}}
    page = to_markdown(as_on_the_poster() | sounds)
    assert "share of sounds that the judge assigns" in page
    assert "Stills of sounds; pictures/ has the sounds themselves, as .wav files." in page
    assert "![Stills of sounds of the first four chains" in page
    assert "Images" not in page.replace("Generating Class-conditional Images", "")
    assert "{" not in page
    page = to_markdown(as_on_the_poster())
    assert "share of images that the judge assigns" in page, "an earlier report, without the entry"
    assert "The images themselves." in page
    assert "![Images of the first four chains" in page


def test_reasons_are_said_once_and_curves_without_values_are_not_named() -> None:
    report = make(mala=row("chain", {"log_natural": [None] * 3, "vendi": [cell(2.0)] * 3}))
    page = to_markdown(
        report | {"left_out": {"log_natural": "why", "kid": "no such photographs", "fid": "no such photographs"}}
    )
    assert "Left out: log p(natural) (why); KID, FID (no such photographs)." in page
    assert "*KID*" not in page
    assert "![Vendi score by the number of gradients" in page


def test_page_has_all_parts() -> None:
    page = to_markdown(as_on_the_poster())
    shown = {name for name, measure in MEASURES.items() if f"*{measure.head}*: {measure.about.format(plural='images')}" in page}
    assert shown == {*MEASURES} - {"log_spectral_distance"}, "that of sounds"
    for part in ("](curves.png)", "](grids.png)", "## Which to use", "## The poster's claim", "-9.79", "```\npython -m"):
        assert part in page
    widths = [line.count("|") for line in page.splitlines() if line.startswith(("| method", "| ---", "| `mala`"))]
    assert widths == [9] * 3 + [6] * 3 + [9] * 3 + [4] * 3


def test_csv_has_every_figure_once() -> None:
    report = as_on_the_poster()
    report["rows"]["mala"]["values"]["vendi"] = cell(3.25)
    report["rows"]["mala"]["curve"]["log_natural"][0] = None
    report["rows"]["map"]["labels"] = ["goldfish"]
    found = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert tuple(found[0]) == CSV_COLUMNS
    keys = [(line["row"], line["num_gradients"], line["measure"]) for line in found]
    assert len(set(keys)) == len(keys) == 1 + 3 * 5 - 1 + 1
    by_key = dict(zip(keys, found, strict=True))
    assert by_key["photographs", "", "log_natural"]["value"] == "-3.0"
    assert by_key["mala", "100", "vendi"]["standard_error"] == ""
    assert float(by_key["mala", "100", "vendi"]["value"]) == 3.25
    assert ("mala", "10", "log_natural") not in by_key
    assert by_key["map", "30", "log_natural"] == {
        "row": "map",
        "kind": "ascent",
        "num_gradients": "30",
        "measure": "log_natural",
        "value": "-5.0",
        "standard_error": "0.2",
        "num_labels": "1",
    }


def sampler(kind: str, p: float, ess: float, **values: Cell) -> dict[str, Any]:
    return row(kind, mmd_p=cell(p), c2st_p=cell(0.9), ess_per_1000=cell(ess, 1.0), **values)


def test_the_most_efficient_indistinguishable_method_is_recommended() -> None:
    report = make(
        map=row("ascent"),
        rejection=sampler("exact", 0.6, 900),
        mala=sampler("chain", 0.3, 40),
        hmc=sampler("chain", 0.02, 50),  # not below 0.05 after correction for all tests
        smc=sampler("particles", 0.001, 60),
        mala_reg=sampler("chain", 0.9, 1000),
        split_hmc=row("chain", kid=cell(0.1)),
    )
    report["rows"]["map"]["values"] = {"kid": cell(0.1)}
    lines = which_to_use(report)
    assert lines[0] == (
        "**Use `rejection`**: ESS 900.0 ± 1.0 per 1000 gradients, images indistinguishable from exact draws (p 0.6); "
        "if the class is too rare for it: `hmc` (ESS 50.0 ± 1.0 per 1000 gradients, p 0.02)."
    )
    assert lines[1].startswith("Also indistinguishable from exact draws, by ESS: `hmc` (ESS 50.0")
    assert lines[1].index("`hmc`") < lines[1].index("`mala`")
    assert lines[2] == "Distinguishable from exact draws, at level 0.05 over 8 tests: `smc` (p 0.001)."
    assert lines[3] == "Not tested against exact draws: `split_hmc`."
    assert lines[4].endswith("`map` (ascent to a mode), `mala+reg` (pulled to the class mean).")
    del report["rows"]["rejection"], report["rows"]["hmc"]
    assert which_to_use(report)[0].startswith("**Use `mala`**: ESS 40.0 ± 1.0 per 1000")
    report["rows"]["mala"]["failed"] = {"monarch": "too rare"}
    assert which_to_use(report)[0].endswith("it failed for monarch.")


def test_no_advice_without_a_reason() -> None:
    assert which_to_use(make(mala=sampler("chain", 0.001, 40)))[0].startswith("**No recommendation**")
    assert which_to_use(make(mala=row("chain", kid=cell(1.0))))[0].startswith("No method was tested")
    assert "no chain is indistinguishable" in which_to_use(make(r=sampler("exact", 0.5, 9), mala=sampler("chain", 1e-4, 40)))[0]


def test_claim_holds() -> None:
    *by_row, verdict = claim(as_on_the_poster())
    assert (
        by_row[0] == "`map` drifts by log p(natural): log p(natural) from -5.00 ± 0.20 at 30 to -12.00 ± 0.20 at 100 gradients."
    )
    assert [line.split(": ")[0] for line in by_row[1:]] == [
        "`map+reg` does not drift",
        "`mala` does not drift",
        "`mala+reg` does not drift",
    ]
    assert verdict.startswith("**The claim holds in all parts**")


def test_claim_fails_in_parts() -> None:
    report = as_on_the_poster()
    report["rows"]["mala"] = row("chain", natural(-2, -6, -5))
    report["rows"]["map"] = row("ascent", natural(-6, -5, -5))
    *by_row, verdict = claim(report)
    assert "but its images end no less natural than those of `rejection` (-5.00 ± 0.20)" in by_row[2]
    assert verdict.startswith("**The claim does not hold in all parts**: 'MAP drifts' does not hold for `map`; ")
    assert "'the chains do not' does not hold for `mala`." in verdict
    assert "(`+reg`) does not' holds" in verdict


def test_kid_alone_shows_a_drift_if_it_has_errors() -> None:
    report = make(mala=row("chain", natural(-6, -6, -6) | {"kid": [cell(0.1, 0.01), cell(0.1, 0.01), cell(0.2, 0.01)]}))
    assert claim(report)[0].startswith("`mala` drifts by KID: ")
    report["rows"]["mala"]["curve"]["kid"] = [cell(0.1), None, cell(0.2)]
    assert claim(report)[0].startswith("`mala` does not drift: ")


def test_a_fall_among_many_comparisons_is_not_a_drift() -> None:
    fallen = row("chain", natural(-5, -5, -5.7))  # by two and a half errors
    assert claim(make(mala=fallen))[0].startswith("`mala` drifts by log p(natural): ")
    others = {f"chain_{k}": row("chain", natural(-5, -5, -5)) for k in range(9)}
    assert claim(make(mala=fallen, **others))[0].startswith("`mala` does not drift: ")


def test_claim_that_is_undecided() -> None:
    once = claim(make([30], map=row("ascent", natural(-6)), mala=row("chain", natural(-7))))
    assert once[0] == "`map` may drift: only one checkpoint, -6.00 ± 0.20 at 30."
    assert once[-1].startswith("**The claim is undecided**")
    assert "`map` may drift: " in claim(make(map=row("ascent", natural(-6, -6, -9, error=3.0))))[0]
    assert "without a standard error" in claim(make(map=row("ascent", natural(-6, -6, -9, error=None))))[0]
    assert claim(make(photographs=row("reference", natural(-6, -6, -9))))[0].startswith("No method has a curve")
    assert "holds in the parts that were run" in claim(make(map=row("ascent", natural(-6, -6, -9))))[-1]


def test_warns_where_a_chain_is_closer_than_exact_draws() -> None:
    report = make(rejection=row("exact", mmd=cell(0.5, 0.01)), mala=row("chain", mmd=cell(0.1, 0.01)))
    warning = exact_is_closest(report)
    assert warning is not None
    assert "`mala` has an MMD of 0.100 ± 0.010, below the 0.500 ± 0.010 of `rejection`" in warning
    assert warning in to_markdown(report)
    report["rows"]["mala"]["values"]["mmd"] = cell(0.49, 0.01)
    assert exact_is_closest(report) is None
    report["rows"]["mala"] |= {"values": {"mmd": cell(0.1, 0.01)}, "labels": ["goldfish"]}  # of other classes
    assert exact_is_closest(report) is None


def test_order_of_the_poster() -> None:
    alike = poster_order(
        make(mala=row("chain", natural(-9)), hmc=row("chain", natural(-8)), map_reg=row("ascent", natural(-8)))
    )
    undecided = "undecided (within 2 standard errors, or without an error): `hmc` and `map+reg`"
    assert alike == f"2 of 3 pairs have the poster's order here; {undecided}."
    assert poster_order(make(mala=row("chain", natural(-9)))).startswith("Fewer than two")
    turned = poster_order(make(mala=row("chain", natural(-5)), hmc=row("chain", natural(-8))))
    assert turned == "0 of 1 pairs have the poster's order here; reversed: `mala` above `hmc`."


def pixels(report: dict[str, Any]) -> np.ndarray:
    return np.asarray(plot_curves(report))


def test_curves_follow_the_data() -> None:
    report = as_on_the_poster()
    image = pixels(report)
    assert image.shape[1:] == (1500, 3)
    assert 250 < len(image) < 500
    report["rows"]["mala"]["curve"]["log_natural"][1] = cell(-9, 0.5)
    changed = (pixels(report) != image).any(-1)
    assert changed.any()
    assert not changed[:60].any()  # the legend stays
    assert (pixels(as_on_the_poster()) == image).all()


def test_curves_of_gaps_and_of_nothing() -> None:
    report = as_on_the_poster()
    report["rows"]["mala"]["curve"] = {
        "log_natural": [None, cell(float("nan")), cell(-4)],
        "kid": [cell(0.1), None, None],
        "vendi": [None] * 3,
    }
    assert pixels(report).shape[1] == 1500
    assert pixels(make([30], a=row("chain", natural(-6)), b=row("reference", natural(-5)))).shape[1] == 1500
    empty = make(mala=row("chain"))
    empty["rows"]["mala"] |= {"values": {}, "labels": [], "failed": {"goldfish": "too slow"}}
    assert pixels(empty).shape[1] == 1500
    assert "## Which to use" in to_markdown(empty)
    assert to_csv(empty).count("\n") == 1
