"""What a comparison's report says, in sentences: which method to use, and whether the poster's claim holds."""

import itertools
from typing import Any

from scipy import stats

from tfgradgen.core.text import markdown_text
from tfgradgen.evaluation.report.catalogue import MEASURES
from tfgradgen.evaluation.report.figures import REGULARIZED, combined_error, curve, final, is_regularized, shown

LEVEL = 0.05  # of all the tests of a report together
SAMPLERS = ("chain", "particles", "exact")  # kinds of rows whose draws can be the posterior's
RUNS = ("ascent", "chain", "particles")  # kinds of rows that go on with more gradients
P_VALUES = ("mmd_p", "c2st_p")
NUM_ERRORS, NUM_ERRORS_WARNING = 2, 3  # combined standard errors that make an order, and a warning
DRIFT_MEASURES = {"log_natural": 1, "kid": -1}  # the sign of what is better
LARGE_DRIFT = 2.0  # nats of log p(natural): 'does not drift' needs errors that would show this much
POSTER = {"map+reg": -6.00, "mala+reg": -5.53, "mala": -9.79, "hmc": -7.96}  # its average log-probability natural


def which_to_use(report: dict[str, Any]) -> list[str]:
    """The cheapest method whose pictures are not told from exact draws, and what speaks against each of the others.

    A row is told from exact draws where the least of its p-values is below LEVEL / (number of p-values of all samplers).
    """
    rows = {name: row for name, row in report["rows"].items() if row.get("values")}
    samplers = [name for name, row in rows.items() if row["kind"] in SAMPLERS and not is_regularized(name)]
    found = {name: [p.value for p in (final(rows[name], m) for m in P_VALUES) if p is not None] for name in samplers}
    num_tests = sum(len(p) for p in found.values())
    least = {name: min(p) for name, p in found.items() if p}
    passed = [name for name in least if least[name] * num_tests >= LEVEL]
    passed.sort(key=lambda name: _speed(rows[name]), reverse=True)
    told = [name for name in least if name not in passed]

    def facts(name: str) -> str:
        return f"{_draws(rows[name])}, p {_p(least[name])}"

    lines = []
    if not least:
        lines.append("No method has a p-value against exact draws: nothing here says which of them draws from the posterior.")
    elif not passed:
        lines.append("**None to recommend**: the pictures of every method that was tested are told from exact draws.")
    else:
        lines.append(_advice(rows, passed, least))
    others = passed[1:]
    if others:
        listed = ", ".join(f"`{name}` ({facts(name)})" for name in others)
        lines.append(f"Not told from exact draws either, by effective draws: {listed}.")
    if told:
        listed = ", ".join(f"`{name}` (p {_p(least[name])})" for name in told)
        lines.append(f"Told from exact draws, at {LEVEL} over {num_tests} tests: {listed}.")
    untested = [name for name in samplers if name not in least]
    if untested and least:
        lines.append(f"Not tested against exact draws: {_names(untested)}.")
    ascents = [name for name, row in rows.items() if row["kind"] == "ascent"]
    pulled = [name for name in rows if is_regularized(name) and name not in ascents]
    reasons = [f"{_names(ascents)} (ascent to a mode)"] * bool(ascents) + [
        f"{_names(pulled)} (pulled to the class's middle)"
    ] * bool(pulled)
    if reasons:
        lines.append(f"No samplers of the posterior, however good their pictures: {', '.join(reasons)}.")
    return lines


def claim(report: dict[str, Any]) -> list[str]:
    """The poster's claim: MAP drifts off the manifold when run long unless it is regularized, the chains do not.

    A row drifts where its last checkpoint is worse than an earlier one at LEVEL over all the falls of the report (normal
    errors, Bonferroni). One sentence a row with a curve of log p(natural), and the verdict as the last.
    """
    rows = {
        name: row
        for name, row in report["rows"].items()
        if row["kind"] in RUNS and any(value is not None for value in curve(row, "log_natural"))
    }
    if not rows:
        return ["No method has a curve of log p(natural): the claim cannot be told."]
    # The last checkpoint is held against the best of the earlier ones: a choice among as many falls as there are.
    found = [[value for value in curve(row, m) if value is not None] for row in rows.values() for m in DRIFT_MEASURES]
    num_falls = sum(max(0, len(values) - 1) for values in found)
    num_errors = float(stats.norm.isf(LEVEL / max(1, num_falls)))
    states, lines = {}, []
    for name, row in rows.items():
        states[name], line = _drift(row, report["checkpoints"], num_errors)
        lines.append(f"`{name}` {line}{_beside_exact(report, name) if states[name] == 'drifts' else ''}.")
    return [*lines, _verdict({name: (rows[name]["kind"], state) for name, state in states.items()})]


def exact_is_closest(report: dict[str, Any]) -> str | None:
    """A warning where a chain seems closer to exact draws than other exact draws are; None where none does."""
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
                f"more than {NUM_ERRORS_WARNING} standard errors. Nothing is closer to exact draws than exact draws: the "
                f"measure is broken, its errors are too small, or the draws of `{exact_name}` are not exact."
            )
    return None


def poster_order(report: dict[str, Any]) -> str:
    """In how many pairs of the poster's methods log p(natural) has the poster's order here."""
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
        return "Fewer than two of the poster's methods have a figure here: there is no order to compare."
    said = [f"{len(agree)} of {total} pairs have the poster's order here"]
    if against:
        said.append(f"the other way round here: {', '.join(against)}")
    if unclear:
        said.append(f"within {NUM_ERRORS} standard errors or without one: {', '.join(unclear)}")
    return "; ".join(said) + "."


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _p(p: float) -> str:
    return f"{p:.2g}"


def _speed(row: dict[str, Any]) -> float:
    draws = final(row, "ess_per_1000")
    return -1.0 if draws is None else draws.value


def _draws(row: dict[str, Any]) -> str:
    draws = final(row, "ess_per_1000")
    return "effective draws unknown" if draws is None else f"{shown(draws)} effective draws of 1000 gradients"


def _advice(rows: dict[str, Any], passed: list[str], least: dict[str, float]) -> str:
    best = passed[0]
    said = f"**Use `{best}`**: {_draws(rows[best])}, pictures not told from exact draws (p {_p(least[best])})"
    if rows[best].get("failed"):
        said += f"; it failed for {markdown_text(', '.join(rows[best]['failed']))}"
    chain = next((name for name in passed if rows[name]["kind"] == "chain"), None)
    if rows[best]["kind"] == "chain":
        return said + "."
    rare = "where the class is too rare for it" if rows[best]["kind"] == "exact" else "for a chain"
    if chain is None:
        return f"{said}; {rare}: no chain was found that is not told from exact draws."
    return f"{said}; {rare}: `{chain}` ({_draws(rows[chain])}, p {_p(least[chain])})."


def _drift(row: dict[str, Any], checkpoints: list[int], num_errors: float) -> tuple[str, str]:
    """('drifts', 'does not drift' or 'cannot be told', the sentence without its subject)."""
    states, parts, drifting = [], [], []
    for measure, sign in DRIFT_MEASURES.items():
        points = [(at, v) for at, v in zip(checkpoints, curve(row, measure), strict=False) if v is not None]
        if len(points) < 2:
            if measure == "log_natural":
                at, value = points[0]
                return "cannot be told", f"cannot be told: one checkpoint only, {shown(value)} at {at:,}"
            continue
        *earlier, (end, last) = points
        start, best = max(earlier, key=lambda point: sign * point[1].value)
        fall, error = sign * (best.value - last.value), combined_error(best, last)
        parts.append(f"{MEASURES[measure].head} from {shown(best)} at {start:,} to {shown(last)} at {end:,} gradients")
        if error is None:
            states += ["cannot be told"] * (measure == "log_natural")
            parts[-1] += " (without a standard error)"
        elif fall > num_errors * error:
            states.append("drifts")
            drifting.append(MEASURES[measure].head)
        elif measure == "log_natural" and fall + num_errors * error > LARGE_DRIFT:
            states.append("cannot be told")
            parts[-1] += f" (the errors would hide a fall of {LARGE_DRIFT:g} nats)"
        else:
            states.append("does not drift")
    state = next(state for state in ("drifts", "cannot be told", "does not drift") if state in states)
    by = f" by {' and '.join(drifting)}" if drifting else ""
    return state, f"{state}{by}: {'; '.join(parts)}"


def _beside_exact(report: dict[str, Any], name: str) -> str:
    """Says where a row that drifts ends no less natural than exact draws: from the prior, that is the way to the posterior."""
    row = report["rows"][name]
    for exact_name, exact in report["rows"].items():
        if exact["kind"] != "exact" or exact["labels"] != row["labels"]:
            continue
        ours, level = final(row, "log_natural"), final(exact, "log_natural")
        error = None if ours is None or level is None else combined_error(ours, level)
        if ours and level and error is not None and level.value - ours.value <= NUM_ERRORS * error:
            return (
                f"; yet its pictures end no less natural than those of `{exact_name}` ({shown(level)}), which the posterior "
                "itself asks for"
            )
    return ""


def _verdict(states: dict[str, tuple[str, str]]) -> str:
    """`states`: by row its kind and whether it drifts."""
    ascents = [name for name, (kind, _) in states.items() if kind == "ascent"]
    parts = (
        ("MAP drifts", [name for name in ascents if not is_regularized(name)], "drifts"),
        (f"MAP with regularization (`{REGULARIZED}`) does not", [n for n in ascents if is_regularized(n)], "does not drift"),
        ("the chains do not", [name for name, (kind, _) in states.items() if kind == "chain"], "does not drift"),
    )
    outcomes, said = [], []
    for text, names, expected in parts:
        wrong = [name for name in names if states[name][1] not in (expected, "cannot be told")]
        unclear = [name for name in names if states[name][1] == "cannot be told"]
        if not names:
            outcome, detail = "missing", "not run"
        elif wrong:
            outcome, detail = "fails", f"does not hold for {_names(wrong)}"
        elif unclear:
            outcome, detail = "unclear", f"cannot be told for {_names(unclear)}"
        else:
            outcome, detail = "holds", "holds"
        outcomes.append(outcome)
        said.append(f"'{text}' {detail}")
    if "fails" in outcomes:
        head = "does not hold in any part" if set(outcomes) == {"fails"} else "does not hold in all parts"
    elif "unclear" in outcomes:
        head = "cannot be told in full" if "holds" in outcomes else "cannot be told"
    elif "missing" in outcomes:
        head = "holds in the parts that were run" if "holds" in outcomes else "was not tested"
    else:
        head = "holds in all parts"
    return f"**The claim {head}**: {'; '.join(said)}."
