"""Conclusions of a comparison in sentences: which method to use, and whether the poster's claim holds."""

import itertools
from typing import Any

from scipy import stats

from tfgradgen.core.text import markdown_text
from tfgradgen.evaluation.report.catalogue import MEASURES
from tfgradgen.evaluation.report.figures import REGULARIZED, combined_error, curve, final, is_regularized, shown
from tfgradgen.media.registry import medium_in

LEVEL = 0.05  # significance level of all tests of a report together
SAMPLERS = ("chain", "particles", "exact")  # kinds of rows that can sample from the posterior
RUNS = ("ascent", "chain", "particles")  # kinds of rows that depend on the number of gradients
P_VALUES = ("mmd_p", "c2st_p")
NUM_ERRORS, NUM_ERRORS_WARNING = 2, 3  # combined standard errors for an order, and for a warning
UNDECIDED = "may drift"  # the errors are too large to decide
DRIFT_MEASURES = {"log_natural": 1, "kid": -1}  # measure -> sign of the better direction
LARGE_DRIFT = 2.0  # nats of log p(natural); 'does not drift' needs errors small enough to detect it
POSTER = {"map+reg": -6.00, "mala+reg": -5.53, "mala": -9.79, "hmc": -7.96}  # mean log p(natural) in the poster


def which_to_use(report: dict[str, Any]) -> list[str]:
    """Recommend the most efficient method whose images are indistinguishable from exact draws, and say why not the others.

    A row is distinguishable from exact draws if its smallest p-value is below LEVEL / (number of p-values of all samplers).
    """
    rows, plural = {name: row for name, row in report["rows"].items() if row.get("values")}, medium_in(report).plural
    samplers = [name for name, row in rows.items() if row["kind"] in SAMPLERS and not is_regularized(name)]
    found = {name: [p.value for p in (final(rows[name], m) for m in P_VALUES) if p is not None] for name in samplers}
    num_tests = sum(len(p) for p in found.values())
    least = {name: min(p) for name, p in found.items() if p}
    passed = [name for name in least if least[name] * num_tests >= LEVEL]
    passed.sort(key=lambda name: _speed(rows[name]), reverse=True)
    rejected = [name for name in least if name not in passed]

    def details(name: str) -> str:
        return f"{_ess(rows[name])}, p {_p(least[name])}"

    lines = []
    if not least:
        lines.append("No method was tested against exact draws, so it is unknown which of them samples from the posterior.")
    elif not passed:
        lines.append(f"**No recommendation**: the {plural} of all tested methods are distinguishable from exact draws.")
    else:
        lines.append(_advice(rows, passed, least, plural))
    others = passed[1:]
    if others:
        listed = ", ".join(f"`{name}` ({details(name)})" for name in others)
        lines.append(f"Also indistinguishable from exact draws, by ESS: {listed}.")
    if rejected:
        listed = ", ".join(f"`{name}` (p {_p(least[name])})" for name in rejected)
        lines.append(f"Distinguishable from exact draws, at level {LEVEL} over {num_tests} tests: {listed}.")
    untested = [name for name in samplers if name not in least]
    if untested and least:
        lines.append(f"Not tested against exact draws: {_names(untested)}.")
    ascents = [name for name, row in rows.items() if row["kind"] == "ascent"]
    pulled = [name for name in rows if is_regularized(name) and name not in ascents]
    reasons = [f"{_names(ascents)} (ascent to a mode)"] * bool(ascents) + [
        f"{_names(pulled)} (pulled to the class mean)"
    ] * bool(pulled)
    if reasons:
        lines.append(f"Not samplers of the posterior, whatever the quality of their {plural}: {', '.join(reasons)}.")
    return lines


def claim(report: dict[str, Any]) -> list[str]:
    """Check the poster's claim: long runs of MAP drift off the manifold unless they are regularized; chains do not.

    A row drifts if its last checkpoint is worse than an earlier one, at LEVEL over all such comparisons of the report (normal
    errors, Bonferroni).

    Returns:
      One sentence per row with a curve of log p(natural), and the verdict as the last.
    """
    rows = {
        name: row
        for name, row in report["rows"].items()
        if row["kind"] in RUNS and any(value is not None for value in curve(row, "log_natural"))
    }
    if not rows:
        return ["No method has a curve of log p(natural), so the claim cannot be checked."]
    # The last checkpoint is compared with the best earlier one, so each earlier checkpoint counts as a comparison.
    found = [[value for value in curve(row, m) if value is not None] for row in rows.values() for m in DRIFT_MEASURES]
    num_falls = sum(max(0, len(values) - 1) for values in found)
    num_errors = float(stats.norm.isf(LEVEL / max(1, num_falls)))
    states, lines = {}, []
    for name, row in rows.items():
        states[name], line = _drift(row, report["checkpoints"], num_errors)
        lines.append(f"`{name}` {line}{_compared_with_exact(report, name) if states[name] == 'drifts' else ''}.")
    return [*lines, _verdict({name: (rows[name]["kind"], state) for name, state in states.items()})]


def exact_is_closest(report: dict[str, Any]) -> str | None:
    """Return a warning if a chain seems closer to exact draws than other exact draws are, otherwise None."""
    rows = report["rows"].items()
    for (name, row), (exact_name, exact) in itertools.product(rows, rows):
        chain_mmd, exact_mmd = final(row, "mmd"), final(exact, "mmd")
        comparable = row["kind"] == "chain" and exact["kind"] == "exact" and row["labels"] == exact["labels"]
        if not comparable or chain_mmd is None or exact_mmd is None:
            continue
        error = combined_error(chain_mmd, exact_mmd)
        if error is not None and exact_mmd.value - chain_mmd.value > NUM_ERRORS_WARNING * error:
            return (
                f"**Warning**: `{name}` has an MMD of {shown(chain_mmd)}, below the {shown(exact_mmd)} of `{exact_name}` by "
                f"more than {NUM_ERRORS_WARNING} standard errors. Nothing can be closer to exact draws than exact draws: the "
                f"measure is wrong, its errors are too small, or the draws of `{exact_name}` are not exact."
            )
    return None


def poster_order(report: dict[str, Any]) -> str:
    """Say for how many pairs of the poster's methods log p(natural) has the poster's order here."""
    found = {name: final(report["rows"][name], "log_natural") for name in POSTER if name in report["rows"]}
    ours = {name: value for name, value in found.items() if value is not None}
    agree: list[str] = []
    against: list[str] = []
    unclear: list[str] = []
    for a, b in itertools.combinations(sorted(ours, key=POSTER.__getitem__), 2):
        error = combined_error(ours[a], ours[b])
        gain = ours[b].value - ours[a].value
        pairs = unclear if error is None or abs(gain) <= NUM_ERRORS * error else agree if gain > 0 else against
        pairs.append(f"`{a}` above `{b}`" if pairs is against else f"`{a}` and `{b}`")
    total = len(agree) + len(against) + len(unclear)
    if not total:
        return "Fewer than two of the poster's methods have a value here, so there is no order to compare."
    said = [f"{len(agree)} of {total} pairs have the poster's order here"]
    if against:
        said.append(f"reversed: {', '.join(against)}")
    if unclear:
        said.append(f"undecided (within {NUM_ERRORS} standard errors, or without an error): {', '.join(unclear)}")
    return "; ".join(said) + "."


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _p(p: float) -> str:
    return f"{p:.2g}"


def _speed(row: dict[str, Any]) -> float:
    draws = final(row, "ess_per_1000")
    return -1.0 if draws is None else draws.value


def _ess(row: dict[str, Any]) -> str:
    ess = final(row, "ess_per_1000")
    return "ESS unknown" if ess is None else f"ESS {shown(ess)} per 1000 gradients"


def _advice(rows: dict[str, Any], passed: list[str], least: dict[str, float], plural: str) -> str:
    best = passed[0]
    said = f"**Use `{best}`**: {_ess(rows[best])}, {plural} indistinguishable from exact draws (p {_p(least[best])})"
    if rows[best].get("failed"):
        said += f"; it failed for {markdown_text(', '.join(rows[best]['failed']))}"
    chain = next((name for name in passed if rows[name]["kind"] == "chain"), None)
    if rows[best]["kind"] == "chain":
        return said + "."
    rare = "if the class is too rare for it" if rows[best]["kind"] == "exact" else "for a chain"
    if chain is None:
        return f"{said}; {rare}: no chain is indistinguishable from exact draws."
    return f"{said}; {rare}: `{chain}` ({_ess(rows[chain])}, p {_p(least[chain])})."


def _drift(row: dict[str, Any], checkpoints: list[int], num_errors: float) -> tuple[str, str]:
    """Return 'drifts', 'does not drift' or UNDECIDED, and the sentence without its subject."""
    states, parts, drifting = [], [], []
    for measure, sign in DRIFT_MEASURES.items():
        points = [(at, v) for at, v in zip(checkpoints, curve(row, measure), strict=False) if v is not None]
        if len(points) < 2:
            if measure == "log_natural":
                at, value = points[0]
                return UNDECIDED, f"{UNDECIDED}: only one checkpoint, {shown(value)} at {at:,}"
            continue
        *earlier, (end, last) = points
        start, best = max(earlier, key=lambda point: sign * point[1].value)
        fall, error = sign * (best.value - last.value), combined_error(best, last)
        parts.append(f"{MEASURES[measure].head} from {shown(best)} at {start:,} to {shown(last)} at {end:,} gradients")
        if error is None:
            states += [UNDECIDED] * (measure == "log_natural")
            parts[-1] += " (without a standard error)"
        elif fall > num_errors * error:
            states.append("drifts")
            drifting.append(MEASURES[measure].head)
        elif measure == "log_natural" and fall + num_errors * error > LARGE_DRIFT:
            states.append(UNDECIDED)
            parts[-1] += f" (the errors are too large to detect a fall of {LARGE_DRIFT:g} nats)"
        else:
            states.append("does not drift")
    state = next(state for state in ("drifts", UNDECIDED, "does not drift") if state in states)
    by = f" by {' and '.join(drifting)}" if drifting else ""
    return state, f"{state}{by}: {'; '.join(parts)}"


def _compared_with_exact(report: dict[str, Any], name: str) -> str:
    """Say if a row that drifts ends as natural as exact draws; then it only moved from the prior to the posterior."""
    row = report["rows"][name]
    for exact_name, exact in report["rows"].items():
        if exact["kind"] != "exact" or exact["labels"] != row["labels"]:
            continue
        ours, level = final(row, "log_natural"), final(exact, "log_natural")
        error = None if ours is None or level is None else combined_error(ours, level)
        if ours and level and error is not None and level.value - ours.value <= NUM_ERRORS * error:
            return (
                f"; but its images end no less natural than those of `{exact_name}` ({shown(level)}), as expected of the "
                "posterior"
            )
    return ""


def _verdict(states: dict[str, tuple[str, str]]) -> str:
    """Return the verdict on the claim; `states` are the kind and the drift of each row."""
    ascents = [name for name, (kind, _) in states.items() if kind == "ascent"]
    parts = (
        ("MAP drifts", [name for name in ascents if not is_regularized(name)], "drifts"),
        (f"MAP with regularization (`{REGULARIZED}`) does not", [n for n in ascents if is_regularized(n)], "does not drift"),
        ("the chains do not", [name for name, (kind, _) in states.items() if kind == "chain"], "does not drift"),
    )
    outcomes, said = [], []
    for text, names, expected in parts:
        wrong = [name for name in names if states[name][1] not in (expected, UNDECIDED)]
        unclear = [name for name in names if states[name][1] == UNDECIDED]
        if not names:
            outcome, detail = "missing", "not run"
        elif wrong:
            outcome, detail = "fails", f"does not hold for {_names(wrong)}"
        elif unclear:
            outcome, detail = "unclear", f"is undecided for {_names(unclear)}"
        else:
            outcome, detail = "holds", "holds"
        outcomes.append(outcome)
        said.append(f"'{text}' {detail}")
    if "fails" in outcomes:
        head = "does not hold in any part" if set(outcomes) == {"fails"} else "does not hold in all parts"
    elif "unclear" in outcomes:
        head = "is partly undecided" if "holds" in outcomes else "is undecided"
    elif "missing" in outcomes:
        head = "holds in the parts that were run" if "holds" in outcomes else "was not tested"
    else:
        head = "holds in all parts"
    return f"**The claim {head}**: {'; '.join(said)}."
