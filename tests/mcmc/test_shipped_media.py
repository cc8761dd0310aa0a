"""The shipped sounds and clips: chains from exact draws stay at the exact distribution, and the judge names these draws."""

from typing import Any

import numpy as np
import pytest

from tests.support.exact import values_and_log_probs
from tests.support.invariance import LEVEL, TESTED, Pairs, Warm, evolve, p_values
from tfgradgen import ClassPosterior, load_classifier, load_generator
from tfgradgen.models.loading.metadata import fingerprint
from tfgradgen.models.shipped import MODEL_SETS, shipped_model

pytestmark = pytest.mark.slow

SETS = [name for name, (_, folder) in MODEL_SETS.items() if folder]
NUM_PRIOR = {"speech": 1536, "actions": 512}
NUM_CHAINS = {"speech": 64, "actions": 40}
BATCH = 64
NUM_WARM = 512
# Clips cost as much as photographs do, so they meet the kernel of the front page alone.
KERNELS = {"speech": TESTED, "actions": ["mala"]}
LEAST_NAMED = {"speech": 0.85, "actions": 0.9}  # of exact draws, by the judge


@pytest.fixture(scope="module", params=SETS)
def posterior(request: pytest.FixtureRequest) -> ClassPosterior:
    return ClassPosterior(load_generator(models=request.param), load_classifier(models=request.param), 0)


@pytest.fixture(scope="module")
def of_set(request: pytest.FixtureRequest, posterior: ClassPosterior) -> str:
    return next(name for name in SETS if posterior.generator.path == str(shipped_model("generator", name)))


@pytest.fixture(scope="module")
def pairs(posterior: ClassPosterior, of_set: str) -> Pairs:
    rng = np.random.default_rng(3)
    z = rng.standard_normal((NUM_PRIOR[of_set], posterior.latent_dim)).astype(np.float32)
    values, log_prob = values_and_log_probs(posterior, z)
    label = (log_prob + rng.gumbel(size=log_prob.shape)).argmax(1)
    named = [k for k, each in enumerate(posterior.classifier.labels) if not each.background]
    rows = np.flatnonzero(np.isin(label, named))
    assert set(label[rows]) == set(named)
    return Pairs(z[rows], values[rows], log_prob[rows], label[rows])


@pytest.fixture(scope="module")
def warm(posterior: ClassPosterior) -> Warm:
    z = np.random.default_rng(5).standard_normal((NUM_WARM, posterior.latent_dim)).astype(np.float32)
    return Warm(z, values_and_log_probs(posterior, z)[1])


def statistics(pairs: Pairs) -> dict[str, np.ndarray]:
    """Scalars of z, of the classifier's opinion and of the sounds or clips, `[N]` each."""
    probs, rest = np.exp(pairs.log_prob), tuple(range(1, pairs.values.ndim))
    return {
        "squared norm of z": np.square(pairs.z).sum(-1),
        "projection of z": pairs.z @ np.random.default_rng(0).standard_normal(pairs.z.shape[1]),
        "p(class)": probs[np.arange(len(probs)), pairs.label],
        "entropy of the class": -(probs * pairs.log_prob).sum(-1),
        "deviation": pairs.values.std(rest),
        "change in time": np.abs(np.diff(pairs.values, axis=1)).mean(rest),
    }


def split(pairs: Pairs, of_set: str) -> tuple[Pairs, Pairs]:
    """Where chains start, and pairs where none did."""
    return pairs.rows(slice(NUM_CHAINS[of_set])), pairs.rows(slice(NUM_CHAINS[of_set], None))


# Six statistics of eight kernels and of one, at level 1e-4: correct kernels fail by chance in one of 180 seeds.
@pytest.mark.parametrize(("posterior", "name"), [(k, n) for k in SETS for n in KERNELS[k]], indirect=["posterior"])
def test_chains_started_at_exact_draws_stay_there(
    name: str, posterior: ClassPosterior, pairs: Pairs, of_set: str, warm: Warm
) -> None:
    started, fresh = split(pairs, of_set)
    values = p_values(statistics(evolve(posterior, name, started, warm)), statistics(fresh))
    assert min(values.values()) > LEVEL, values


def test_a_wrong_acceptance_is_found_out(posterior: ClassPosterior, pairs: Pairs, of_set: str, warm: Warm) -> None:
    started, fresh = split(pairs, of_set)
    values = p_values(statistics(evolve(posterior, "broken", started, warm, 0.6, 12)), statistics(fresh))
    assert min(values.values()) < LEVEL, values


def test_the_judge_names_exact_draws(posterior: ClassPosterior, pairs: Pairs, of_set: str) -> None:
    judge = load_classifier(shipped_model("judge", of_set))
    assert judge.sha256 != posterior.classifier.sha256
    assert [label.name for label in judge.labels] == [label.name for label in posterior.classifier.labels]
    said = np.concatenate([judge(pairs.values[k : k + BATCH]).numpy() for k in range(0, len(pairs.z), BATCH)]).argmax(1)
    share = np.mean(said == pairs.label)
    assert share > LEAST_NAMED[of_set], share
    wrong: Any = np.mean(said == np.roll(pairs.label, 1))
    assert wrong < 0.5, "labels of other draws are not what it says"


@pytest.mark.parametrize("name", SETS)
def test_cards_name_the_models_that_ship(name: str) -> None:
    for model in MODEL_SETS[name][0]:
        folder = shipped_model(model, name)
        assert fingerprint(folder) in (folder / "MODEL.md").read_text()
