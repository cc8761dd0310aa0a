"""What is read of run.json."""

import pytest

from tests.support.records import a_record
from tfgradgen.results.files import checked_record


@pytest.mark.parametrize("entry", ["prior_draws", "prior_class_prob_error", "exact_starts", "num_gradients"])
def test_what_a_diagnosis_reads_of_a_record_has_its_type(entry: str) -> None:
    record = a_record() | {"prior_draws": 256, "prior_class_prob_error": 0.1}
    checked_record(record)
    with pytest.raises((TypeError, ValueError), match=f"whose {entry} is"):
        checked_record(record | {entry: "2"})
