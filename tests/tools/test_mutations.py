"""The tool that breaks the source: its texts are there, and it tells tests that notice from tests that do not."""

from pathlib import Path

import pytest

from tools import mutations
from tools.mutations import MUTATIONS, Mutation, broken, main


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.path)
def test_each_mutation_changes_a_file_that_has_tests(mutation: Mutation, root: Path) -> None:
    source = (root / mutation.path).read_text(encoding="utf-8")
    compile(broken(source, mutation), mutation.path, "exec")
    assert all((root / word).exists() for word in mutation.tests if word.startswith("tests/"))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "one.py").write_text("def one():\n    return 1\n")
    (tmp_path / "test_good.py").write_text("import one\n\n\ndef test():\n    assert one.one() == 1\n")
    (tmp_path / "test_poor.py").write_text("import one\n\n\ndef test():\n    assert one.one()\n")
    found = [Mutation(f"two, {name}", "one.py", "return 1", "return 2", (f"test_{name}.py",)) for name in ("good", "poor")]
    monkeypatch.setattr(mutations, "MUTATIONS", found)
    monkeypatch.setattr(mutations, "ROOT", tmp_path)
    return tmp_path


def test_a_test_that_notices_nothing_is_named(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(only="good")
    assert "| two, good | one.py | 1 | 0 |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no test fails when two, poor; write one"):
        main()
    assert "| two, poor | one.py | 0 | 1 |" in capsys.readouterr().out
    assert "return 1" in (small / "one.py").read_text(), "the repository itself is left alone"


def test_what_does_not_run_is_no_failure(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutations, "MUTATIONS", [Mutation("gone", "one.py", "return 1", "return 2", ("test_gone.py",))])
    with pytest.raises(SystemExit, match=r"pytest test_gone.py did not run"):
        main()
    with pytest.raises(SystemExit, match="expected --only to be in the text of a mutation, got 'x'"):
        main(only="x")
    with pytest.raises(ValueError, match="expected 'return 3' once, got it 0 times"):
        broken("return 1", Mutation("", "one.py", "return 3", "", ()))
