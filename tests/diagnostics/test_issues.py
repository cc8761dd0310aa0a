"""Each warning, by its smallest case and a similar case without it; grades, pairs of warnings, prices, and the pages."""

import copy
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tfgradgen
from tests.support.records import a_record
from tfgradgen.core.contracts import Draws
from tfgradgen.core.text import FLAG
from tfgradgen.diagnostics.advice import MIN_MASS, MIN_PRIOR_DRAWS, Run, accepted_mass, again, duration, priced
from tfgradgen.diagnostics.convergence import CLASS_PROB, LOG_DENSITY, Convergence, rhat_limit
from tfgradgen.diagnostics.issues import PAGES, PAGES_FILE, chain_table, problems, proven_problems
from tfgradgen.mcmc import auto
from tfgradgen.mcmc.recipe import settings_of
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.results import record as records
from tfgradgen.results.record import diagnosis
from tfgradgen.results.summary import verdict

Case = tuple[Draws, dict[str, Any]]
Change = Callable[[Draws, dict[str, Any]], Case]


@pytest.fixture(scope="module", autouse=True)
def equal_draws_once() -> Iterator[None]:
    """Compute what depends on the draws alone once for equal draws, because many cases change only the record."""
    known = dict[Any, Any]()

    def once(fn: Any) -> Any:
        def kept(draws: Draws, **settings: Any) -> Any:
            digest = hashlib.sha256()
            for column in draws:
                digest.update(repr((column.shape, column.dtype)).encode() + np.ascontiguousarray(column).tobytes())
            key = fn.__name__, digest.digest(), repr(settings)
            if key not in known:
                known[key] = fn(draws, **settings)
            return copy.deepcopy(known[key])

        return kept

    with pytest.MonkeyPatch.context() as patch:
        for fn in (records.run_statistics, records.chain_table):
            patch.setattr(records, fn.__name__, once(fn))
        yield


def draws_of(z: np.ndarray, accept_prob: float = 0.44) -> Draws:
    """Return `Draws` with these z [num_results, num_chains, latent_dim] and made-up other fields."""
    moved = np.concatenate([np.ones(z.shape[1:2], bool)[None], (z[1:] != z[:-1]).any(-1)])
    prob = 1 / (1 + np.exp(-z[..., 0]))
    steps, ratio = np.full_like(prob, 0.4), np.full_like(prob, np.log(accept_prob))
    return Draws(z, prob, -np.square(z).sum(-1) / 2, moved, steps, ratio)


def healthy(num_results: int = 264, num_chains: int = 16) -> Case:
    """A run of mala without problems."""
    record = a_record() | {"doubts": [], "exact_starts": num_chains, "num_gradients": 5000}
    record |= {"prior_class_prob": 0.034, "prior_draws": 4096}
    record["arguments"] |= {"schedule": {"num_results": num_results, "num_burnin_steps": 36, "num_adaptation_steps": 27}}
    return draws_of(np.random.default_rng(0).standard_normal((num_results, num_chains, 6))), record


def with_kernel(name: str, **settings: Any) -> Change:
    def change(draws: Draws, record: dict[str, Any]) -> Case:
        config = SAMPLERS[name].defaults.to_dict() | settings
        return draws, record | {"kernel": name, "arguments": record["arguments"] | {"kernel_config": config}}

    return change


def with_stats(**stats: Any) -> Change:
    return lambda draws, record: (draws, record | stats)


def with_ratio(value: float, first: int | None = None) -> Change:
    """Return draws in which chain 3 has this ratio, in all its proposals or in the `first` of them."""

    def change(draws: Draws, record: dict[str, Any]) -> Case:
        ratio = draws.log_accept_ratio.copy()
        ratio[:first, min(3, ratio.shape[1] - 1)] = value
        return draws._replace(log_accept_ratio=ratio), record

    return change


def standing(num: int | None) -> Change:
    """Return draws in which chain 2 stands still for its first draws."""

    def change(draws: Draws, record: dict[str, Any]) -> Case:
        z, chain = draws.z.copy(), min(2, draws.z.shape[1] - 1)
        z[:num, chain] = z[0, chain]
        return draws_of(z)._replace(log_accept_ratio=draws.log_accept_ratio), record

    return change


def apart(distance: float) -> Change:
    """Return draws in which every second chain is elsewhere in one coordinate."""

    def change(draws: Draws, record: dict[str, Any]) -> Case:
        z = draws.z.copy()
        z[:, ::2, 4] += distance
        return draws_of(z)._replace(log_accept_ratio=draws.log_accept_ratio), record

    return change


def cut(num_results: int, num_chains: int) -> Change:
    def change(draws: Draws, record: dict[str, Any]) -> Case:
        return Draws(*(column[:num_results, :num_chains] for column in draws)), record | {"exact_starts": num_chains}

    return change


def both(*changes: Change) -> Change:
    def change(draws: Draws, record: dict[str, Any]) -> Case:
        for each in changes:
            draws, record = each(draws, record)
        return draws, record

    return change


def accepting(prob: float) -> Change:
    return lambda draws, record: (draws._replace(log_accept_ratio=np.full_like(draws.class_prob, np.log(prob))), record)


def at_an_image(draws: Draws, record: dict[str, Any]) -> Case:
    """All chains start at one photograph, so their agreement may mean that none has left its mode."""
    return draws, record | {"exact_starts": None, "arguments": record["arguments"] | {"init": "photo.png"}}


def without_steps(draws: Draws, record: dict[str, Any]) -> Case:
    return draws._replace(step_size=np.full_like(draws.class_prob, np.nan)), record


def not_finite(draws: Draws, record: dict[str, Any]) -> Case:
    target = draws.target_log_prob.copy()
    target[:5, 1 % target.shape[1]] = np.nan
    return draws._replace(target_log_prob=target), record


IMAGES, MEANS = "images", "means"
ALL = {IMAGES, MEANS}
DISAGREE = apart(1.2)
# page: the smallest case, a similar one without the warning, and the grades that a run loses by the warning.
CASES: list[tuple[str, Change, Change, set[str]]] = [
    ("models", with_stats(doubts=["a warning"]), with_stats(doubts=[]), set()),
    ("models", with_stats(image_doubts=["a warning"]), with_stats(image_doubts=[]), {IMAGES}),
    ("not-finite", not_finite, with_stats(), ALL),
    ("not-finite", with_ratio(np.nan, 1), with_ratio(-30.0, 1), ALL),
    ("not-finite", with_stats(num_not_finite=1), with_stats(num_not_finite=0), ALL),
    ("no-draws", with_kernel("map"), with_kernel("mala"), ALL),
    ("approximate-draws", with_kernel("smc"), with_kernel("rejection"), ALL),
    ("class-regularization", with_kernel("mala", class_reg=0.1), with_kernel("mala", class_reg=0.0), ALL),
    ("stuck-chains", standing(None), standing(263), ALL),
    ("stuck-chains", with_ratio(-50.0), with_ratio(-3.0), {MEANS}),
    ("divergences", with_ratio(-1001.0, 1), with_ratio(-999.0, 1), {MEANS}),
    ("standstills", standing(116), standing(40), {MEANS}),
    ("standstills", both(standing(116), accepting(1.0)), accepting(1.0), {MEANS}),
    ("starts", both(with_stats(exact_starts=15), DISAGREE), DISAGREE, ALL),
    ("starts", both(with_stats(exact_starts=None), DISAGREE), with_stats(exact_starts=None), ALL),
    ("starts", with_stats(exact_starts=7), with_stats(exact_starts=8), ALL),
    ("starts", at_an_image, with_stats(exact_starts=None), ALL),
    ("one-chain", cut(264, 1), cut(264, 2), ALL),
    ("separate-modes", apart(4.0), apart(1.2), {MEANS}),
    ("disagreeing-chains", DISAGREE, apart(0.1), {MEANS}),
    ("few-effective-draws", cut(20, 2), cut(200, 2), {MEANS}),
    ("few-effective-draws", both(with_kernel("rejection"), cut(1, 1)), both(with_kernel("rejection"), cut(10, 1)), {MEANS}),
    ("few-effective-draws", both(with_kernel("rejection"), cut(3, 3)), both(with_kernel("rejection"), cut(5, 2)), {MEANS}),
    ("acceptance", both(DISAGREE, accepting(0.8)), accepting(0.8), {MEANS}),
    ("acceptance", both(accepting(0.2), DISAGREE), DISAGREE, {MEANS}),
]
IDS = [f"{page}-{k}" for k, (page, *_) in enumerate(CASES)]


def found_of(*changes: Change) -> dict[str, Any]:
    draws, record = both(*changes)(*healthy())
    return record | diagnosis(draws, record)


@pytest.mark.parametrize(("page", "bad", "good", "against"), CASES, ids=IDS)
def test_each_warning_has_a_case_that_brings_it_and_one_beside_it_that_does_not(
    page: str, bad: Change, good: Change, against: set[str]
) -> None:
    found = found_of(bad)
    assert page in found["warnings"]
    assert page not in found_of(good)["warnings"]
    (line,) = [one for one, name in zip(found["problems"], found["warnings"], strict=True) if name == page]
    assert line.endswith(f" ({PAGES_FILE}#{page})")
    assert {grade for grade, value in found["grades"].items() if value != "ok"} == against
    if page not in ("models", "not-finite"):
        assert "about " in priced(line, 30.0), "the price of the advice"


def directions(lines: list[str]) -> dict[str, set[str]]:
    """Return the direction in which the advice moves each flag; target_accept_prob acts opposite to the step size."""
    found: dict[str, set[str]] = {}
    for verb, flag in re.findall(r"\b(raise|lower) --(\w+)", " ".join(lines)):
        if flag == "target_accept_prob":
            flag, verb = "step_size", "lower" if verb == "raise" else "raise"
        found.setdefault(flag, set()).add(verb)
    return found


@pytest.mark.parametrize("one", range(len(CASES)), ids=IDS)
def test_no_two_warnings_contradict_each_other(one: int) -> None:
    for other in range(one + 1, len(CASES)):
        draws, record = both(CASES[one][1], CASES[other][1])(*healthy())
        found = record | diagnosis(draws, record)
        lines = verdict(found)
        assert all(len(verbs) == 1 for verbs in directions(lines).values()), lines
        assert len(re.findall(r"--num_results to \d+", " ".join(lines))) <= 1, "one number of draws"
        for grade, value in found["grades"].items():
            ok = [line for line in lines if line.startswith(f"ok       {grade}: ")]
            bad = [line for line in found["problems"] if grade in line.split(": ")[0].split(" and ")]
            assert (len(ok), bool(bad)) == ((1, False) if value == "ok" else (0, True)), lines
        assert not [line for line in lines if "checked: " in line]
        assert set(found["warnings"]) <= set(PAGES)


def test_two_directions_would_be_seen() -> None:
    assert directions(["a: lower --step_size", "b: raise --step_size"])["step_size"] == {"lower", "raise"}
    assert directions(["a: raise --target_accept_prob", "b: raise --step_size"])["step_size"] == {"lower", "raise"}


def test_where_all_is_well_it_says_what_was_checked() -> None:
    found = found_of()
    assert (found["problems"], found["grades"]) == ([], {"images": "ok", "means": "ok"})
    images, means, checked = verdict(found)
    assert images == "ok       images: 16 draws of the posterior: starts and kernel are exact, and every chain moved"
    assert means.startswith("ok       means: good to the +- shown: R-hat is at most 1.0")
    for what in (
        "starts",
        "stuck chains",
        "divergences",
        "standstills",
        "R-hat of p(class), the log density and 6 coord",
    ):
        assert what in checked
    exact = verdict(found_of(with_kernel("rejection")))
    assert "16 independent, exact draws of the posterior" in exact[0]
    assert "R-hat" not in " ".join(exact)


def test_the_default_run_of_mala_keeps_the_grade_of_its_images() -> None:
    """The chains are slow but start at exact draws, so the last state of each is a draw, whatever R-hat is."""
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((264, 16, 84))
    z = np.empty_like(noise)
    z[0] = noise[0]
    for t in range(1, 264):
        z[t] = 0.98 * z[t - 1] + np.sqrt(1 - 0.98**2) * noise[t]
    draws, record = draws_of(z), healthy()[1]
    found = record | diagnosis(draws, record)
    assert found["grades"] == {"images": "ok", "means": "warning"}
    assert set(found["warnings"]) <= {"disagreeing-chains", "separate-modes"}
    (line,) = found["problems"]
    assert "of the latent z (worst of 84 coordinates)" in line
    assert found["statistics"]["z"]["rhat"] == max(one["rhat"] for one in found["statistics"].values())


def test_of_chains_that_forgot_their_starts_the_images_are_draws() -> None:
    found = found_of(with_stats(exact_starts=None))
    assert found["grades"]["images"] == "ok"
    assert "the chains have forgotten their starts" in found["passed"][0]
    assert found_of(cut(3, 16), with_stats(exact_starts=0))["grades"]["images"] == "warning"


def test_a_short_run_that_did_not_move_by_chance_is_not_stuck() -> None:
    """Six draws at acceptance 0.44: one chain in 18 rejects all five proposals, but never all sixteen chains."""

    def still(*chains: int) -> Change:
        def change(draws: Draws, record: dict[str, Any]) -> Case:
            z = draws.z[:6].copy()
            z[:, list(chains)] = z[0, list(chains)]
            return draws_of(z), record

        return change

    assert "stuck-chains" not in found_of(still(0))["warnings"]
    assert "stuck-chains" in found_of(still(*range(16)))["warnings"]


def test_the_cheaper_way_is_named_where_there_is_one() -> None:
    def advice(**stats: Any) -> str:
        return priced(" ".join(found_of(both(DISAGREE, with_stats(**stats)))["problems"]), 32.0)

    assert re.search(r"--num_results to \d+ \([\d.]+ times the draws, about [\d.]+ (s|minutes)\)", advice())
    assert re.search(r", or take --kernel=rejection \(32 exact draws, about [\d.]+ (s|minutes)\)", advice())
    assert "rejection" not in advice(prior_class_prob=MIN_MASS / 2)
    assert "rejection" not in advice(prior_class_prob=None)
    assert "rejection" not in advice(discriminator={})


def test_a_few_prior_draws_advise_nothing() -> None:
    """Of five prior draws of a class with 0.018 of the prior, none shows the class in nine of ten runs."""

    def advice(**stats: Any) -> str:
        return " ".join(found_of(both(DISAGREE, with_stats(prior_class_prob=0.034, **stats)))["problems"])

    assert "rejection" in advice(prior_draws=MIN_PRIOR_DRAWS)
    assert "rejection" not in advice(prior_draws=MIN_PRIOR_DRAWS - 1)
    chosen = {"kernel": "mala", "mass": 0.018, "error": 0.001, "num_draws": 4096, "why": ""}
    assert f"exact draws, {again(32 / 0.018 * 0.45 / (5000 + 0.45 * 5))}" in advice(prior_draws=768, auto=chosen)


def test_after_a_choice_by_auto_no_advice_names_a_flag_that_auto_refuses() -> None:
    kernel, chosen = with_kernel("elliptical_slice"), {"mass": 1e-6, "error": 1e-6, "num_draws": 4096}
    taken = {*auto.known_settings(), "num_chains", "seed"}
    seen = ""
    for _, bad, _, _ in CASES:
        for line in found_of(bad, kernel, without_steps, with_stats(auto=chosen))["problems"]:
            flags = {match[1] for match in FLAG.finditer(line)}
            assert flags <= taken or "with --kernel=elliptical_slice" in line, line
            seen += line
    assert re.search(r"with --kernel=elliptical_slice, raise --num_burnin_steps to \d+", seen)
    assert "or with --kernel=elliptical_slice --init=prior" in seen
    assert "with --kernel" not in " ".join(found_of(kernel, DISAGREE, with_stats(exact_starts=None))["problems"])


def test_a_kernel_without_steps_is_advised_what_it_has() -> None:
    learned = with_kernel("hvi", exact=True), with_stats(fit={}), without_steps
    (line,) = found_of(standing(None), *learned)["problems"][:1]
    assert (
        "chain 2 never moved in 264 draws, so its last draw is its start: raise --num_proposals, --prior_share or --num_opt"
        in line
    )
    assert "steps are too large" not in line
    starts = found_of(DISAGREE, *learned)
    (line,) = [one for one, page in zip(starts["problems"], starts["warnings"], strict=True) if page == "starts"]
    assert "the proposals were learned from the draws where the chains start, and nothing shows" in line
    assert "raise --num_results (2 times the time or more)" in line
    for one in CASES:
        flags = {match[1] for text in found_of(one[1], *learned)["problems"] for match in FLAG.finditer(text)}
        assert flags <= {*settings_of(SAMPLERS["hvi"]), "num_chains", "seed", "kernel", "init"}, flags


def all_still(draws: Draws, record: dict[str, Any]) -> Case:
    return draws_of(np.repeat(draws.z[:1], len(draws.z), 0), 1e-9), record


def test_where_no_chain_moves_only_that_is_said() -> None:
    found = found_of(all_still, cut(264, 2), with_stats(exact_starts=0))
    assert set(found["warnings"]) == {"stuck-chains", "acceptance"}, "a longer adaptation can help"
    assert "chains 0, 1 never moved in 264 draws, so their last draws are their starts: the steps" in found["problems"][0]
    assert set(found["grades"].values()) == {"warning"}
    diverged = found_of(all_still, with_ratio(-1001.0))
    assert [line.split(":")[0] for line in diverged["problems"]][:2] == ["means", "images and means"]


def test_where_all_chains_are_stuck_the_other_grades_are_lost_all_the_same() -> None:
    """Chains that move a little do not show where they started, but without exact starts their images are no draws either."""
    found = found_of(DISAGREE, accepting(0.01), with_stats(exact_starts=0))
    assert "starts" not in found["warnings"]
    assert found["grades"] == {"images": "warning", "means": "warning"}
    assert found_of(DISAGREE, accepting(0.01))["grades"] == {"images": "ok", "means": "warning"}


def test_an_r_hat_above_its_limit_looks_above_it() -> None:
    limit = rhat_limit(264, 16, 8)
    found = dict.fromkeys((CLASS_PROB, LOG_DENSITY), Convergence(rhat=limit + 0.0005, between=0.1, ess=500.0))
    chains = chain_table(healthy()[0])
    (line,) = [one.what for one in problems(chains, found, 264, 6, Run(num_exact=16))]
    shown = re.search(r"R-hat ([\d.]+) of .*, limit ([\d.]+):", line)
    assert shown
    assert float(shown[1]) > float(shown[2])
    assert round(limit, 2) == round(limit + 0.0005, 2), "with two digits they would be equal"


def test_what_one_run_proves_comes_without_remedy_and_price() -> None:
    draws, _ = both(standing(None), not_finite)(*healthy())
    found = proven_problems(chain_table(draws), len(draws.z))
    assert found == [
        "the density is not finite in 5 of 4224 draws (chain 1)",
        "chain 2 never moved in 264 draws, so its last draw is its start",
    ]


def test_the_price_of_rejection_is_that_of_its_forward_passes() -> None:
    """A run has 5000 gradients and 5 forward passes in 100 s; 32 draws at mass 0.034 take 941 forward passes."""
    line = " ".join(found_of(DISAGREE)["problems"])
    assert f"rejection (32 exact draws, {32 / 0.034 * 0.45 / (5000 + 0.45 * 5):.2g} times the time)" in line
    assert not re.search(r"\d (s|minutes?|hours?)\b", line), "run.json holds nothing that depends on the machine"


def test_prices_of_any_size_are_read_back_whole() -> None:
    for times in (4e-5, 0.02, 0.9999, 3.04, 1200.0, 3e12):
        assert re.fullmatch(r"about [\d.]+ (s|minutes?|hours?|days?)", priced(again(times), 40.0)), again(times)


@pytest.mark.parametrize(
    ("prob", "temperature", "expected"),
    [(0.1, 1.0, 0.1), (0.1, 2.0, 0.1), (0.1, 0.5, 0.01), (None, 1.0, None), (7.0, 1.0, None), (0.0, 1e-300, 0.0)],
)
def test_the_accepted_mass_is_bounded_from_below(prob: float | None, temperature: float, expected: float | None) -> None:
    assert accepted_mass(prob, temperature) == (expected if expected is None else pytest.approx(expected))
    if prob and expected and prob < 1:
        p = np.random.default_rng(0).beta(prob, 1 - prob, 20_000)
        assert np.mean(p ** (1 / temperature)) > 0.9 * expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "about 1 s"), (32, "about 32 s"), (95, "about 2 minutes"), (360, "about 6 minutes"), (7300, "about 2 hours")],
)
def test_prices_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text
    assert priced("(8 times the draws, 2.5 times the time)", seconds / 2.5) == f"(8 times the draws, {text})"
    assert duration(1e9).endswith("days")


def test_every_warning_has_a_section_and_every_section_a_warning() -> None:
    text = (Path(tfgradgen.__file__).parent / "diagnostics" / "README.md").read_text()
    sections = re.findall(r"^## (.+)$", text, re.M)
    assert sections == list(PAGES)
    assert PAGES_FILE == "tfgradgen/diagnostics/README.md"
    assert {page for page, *_ in CASES} == set(PAGES), "and each can be brought about"
    for flag in set(re.findall(r"`--([a-z_]+)", text)):
        settings = {name for sampler in SAMPLERS.values() for name in asdict(sampler.defaults)}
        known = {"strict", "num_adaptation_steps", "num_burnin_steps", "num_results", "num_chains", "block", "init", "kernel"}
        assert flag in settings | known | {"generator_range"}, flag


def test_the_sections_come_with_the_package() -> None:
    setup = (Path(tfgradgen.__file__).parents[1] / "setup.cfg").read_text()
    assert "tfgradgen.diagnostics = README.md" in setup


def test_blocks_of_one_chain_are_told_from_runs_of_one_chain() -> None:
    """Five chains in blocks of two: the last tunes its step size alone, and more chains would not change that."""

    def divided(size: int) -> Change:
        return lambda draws, record: (draws, record | {"arguments": record["arguments"] | {"block": size}})

    five = cut(264, 5)
    found = found_of(both(five, divided(2)))
    (line,) = [one for one, name in zip(found["problems"], found["warnings"], strict=True) if name == "one-chain"]
    assert "a block of one chain alone biases its draws: give a --block that leaves 4 chains or more in each block" in line
    assert "--num_chains" not in line
    assert "one-chain" not in found_of(both(five, divided(3)))["warnings"]
    assert "raise --num_chains" in str(found_of(both(cut(264, 1), divided(1)))["problems"])
