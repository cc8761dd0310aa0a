"""What an editor shows of the library: its names, types and arguments."""

import ast
import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import tfgradgen as tg
from tfgradgen.models.loading.settings import ClassifierSettings, GeneratorSettings

TYPED = """
import tfgradgen as tg
posterior = tg.ClassPosterior(tg.load_generator(), tg.load_classifier("m", output="logits"), 0)
result = tg.sample(posterior, kernel="mala", num_chains=16, seed=0, step_size=0.3)
reveal_type(tg.sample)
reveal_type(tg.load_generator)
reveal_type(tg.ClassPosterior)
reveal_type(result)
reveal_type(result.z)
reveal_type(result.issues)
reveal_type(tg.load_run("out/x"))
tg.smaple
tg.sample(posterior, num_chains="16")
tg.load_generator(latentdim=3)
tg.ClassPosterior(tg.load_generator(), tg.load_classifier(), 0, temprature=2.0)
reveal_type(posterior.unnormalized_log_prob)
"""


def test_types_reach_an_editor(root: Path, tmp_path: Path) -> None:
    from mypy import api

    (tmp_path / "typed.py").write_text(TYPED)
    options = ["--config-file", str(root / "setup.cfg"), "--no-error-summary", "--cache-dir", str(tmp_path / "cache")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYPYPATH", str(root))
        said, errors, _ = api.run([*options, str(tmp_path / "typed.py")])
    lines = [line.split("typed.py:", 1)[1] for line in said.splitlines() if "typed.py:" in line]
    revealed = [line.split('"', 1)[1] for line in lines if "Revealed type" in line]
    assert not errors
    assert "tfgradgen.posterior.ClassPosterior" in revealed[0]
    assert "*, num_results: int | None" in revealed[0].replace("builtins.", "") or "num_results: Union" in revealed[0]
    assert "latent_dim: " in revealed[1]
    assert "-> tfgradgen.models.generator.Generator" in revealed[1]
    assert "-> tfgradgen.posterior.ClassPosterior" in revealed[2]
    assert "tfgradgen.results.result.SampleResult" in revealed[3]
    assert "ndarray" in revealed[4]
    assert "list[" in revealed[5].lower()
    assert "tfgradgen.results.result.SampleResult" in revealed[6]
    mistakes = [line for line in lines if "error:" in line]
    assert [line.split(":")[0] for line in mistakes] == ["12", "13", "14", "15"], said
    assert revealed[7].startswith("def (z: Any)")


def test_names_for_editors_are_those_at_run_time() -> None:
    tree = ast.parse(Path(tg.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == tg._HOMES  # type: ignore[attr-defined]
    assert "__version__" in dir(tg)


@pytest.mark.parametrize(
    ("load_fn", "kind"),
    [
        (tg.load_generator, GeneratorSettings),
        (tg.load_classifier, ClassifierSettings),
        (tg.load_discriminator, ClassifierSettings),
    ],
)
def test_loaders_show_all_that_can_be_set(load_fn: Any, kind: Any) -> None:
    parameters = inspect.signature(load_fn).parameters
    assert parameters["path"].default is None
    shown = {name: p.default for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert shown.pop("models", "photographs") == "photographs", "which shipped model, if no path is given"
    assert shown == {field.name: field.default for field in fields(kind)}
    with pytest.raises(tg.UserError, match=r"got layoud; did you mean layout"):
        load_fn(layoud="channels_last")
