"""The measurement of engines: its model recovers the terms of its own predictions, and the script runs."""

import pytest

from tools.bench.scaling import TERMS, fitted, main, predicted


def test_the_terms_of_a_prediction_are_found() -> None:
    terms = dict(zip(TERMS, (0.5, 0.003, 0.004, 0.002), strict=True))
    rows = []
    for workers in (1, 2, 8):
        for pieces, size in ((80, 0.1), (240, 0.1), (240, 1.0)):
            spent = pieces * (terms["serial"] + size * terms["transfer"])
            rows.append((workers, pieces, size, 0.05, predicted(terms, workers, pieces, size, 0.05), spent))
    assert fitted(rows) == pytest.approx(terms, rel=1e-6)


def test_it_measures_simulated_workers(capsys: pytest.CaptureFixture[str]) -> None:
    main(num_workers=(1, 2), engine="threads", num_blocks=2, work=0.001)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 3 + 1
    assert lines[0].startswith("1 workers, 2 blocks of 5 pieces of 0.11 MB: ")
    assert lines[-1].startswith("threads: start ")
