"""ImageNet's classes: their order, their names, and the words that find them."""

import json
import re
from pathlib import Path

import pytest

from tfgradgen.core.checks import UserError
from tfgradgen.models.imagenet import imagenet_labels
from tfgradgen.models.labels import as_key, resolve_labels
from tfgradgen.models.loading.metadata import Label

LABELS = imagenet_labels(1000)


def test_the_classes_stand_in_their_standard_order() -> None:
    assert LABELS[0] == Label("tench", "n01440764", "tench, Tinca tinca")
    assert LABELS[1] == Label("goldfish", "n01443537", "goldfish, Carassius auratus")
    assert LABELS[999] == Label("toilet_tissue", "n15075141", "toilet tissue, toilet paper, bathroom tissue")
    wnids = [label.wnid for label in LABELS]
    assert len(set(wnids)) == 1000
    assert wnids == sorted(wnids)
    known = {2: "great_white_shark", 145: "king_penguin", 281: "tabby", 388: "giant_panda", 401: "accordion", 950: "orange"}
    assert {k: LABELS[k].name for k in known} == known


def test_the_shipped_classes_are_called_the_same(root: Path) -> None:
    shipped = json.loads((root / "saved_models/classifier/model.json").read_text(encoding="utf-8"))["labels"]
    by_wnid = {label.wnid: label for label in LABELS}
    found = [entry for entry in shipped if entry.get("wnid")]
    assert len(found) == 20
    for entry in found:
        assert by_wnid[entry["wnid"]] == Label(entry["name"], entry["wnid"], entry["synset"])


def test_names_are_distinct_words_of_their_synset() -> None:
    names = [label.name for label in LABELS]
    assert len({as_key(name) for name in names}) == 1000
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names)
    chosen = {label.name for label in LABELS if label.name not in [as_key(w).replace("'", "") for w in label.synset.split(",")]}
    assert chosen == {"crane_bird", "crane_machine"}, "all others are words of the synset"


def test_a_model_with_a_background_has_it_first() -> None:
    labels = imagenet_labels(1001)
    assert labels[0].background
    assert labels[1:] == LABELS
    assert len(resolve_labels(labels, "all")) == 1000
    assert resolve_labels(labels, "goldfish") == [2]
    assert imagenet_labels(1000) is LABELS, "the file is read once"


@pytest.mark.parametrize("num_outputs", [0, 20, 999, 1002])
def test_another_number_of_outputs_is_refused(num_outputs: int) -> None:
    with pytest.raises(UserError, match=f"1000 outputs, or 1001 with a background, got {num_outputs}; give"):
        imagenet_labels(num_outputs)


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("house finch", ["house_finch"]),
        ("linnet", ["house_finch"]),
        ("Man-Eater", ["great_white_shark"]),
        ("Carassius auratus,ladybird", ["goldfish", "ladybug"]),
        ("goldfish, Carassius auratus", ["goldfish"]),
        ("jack-o'-lantern", ["jack_o_lantern"]),
        ("n01443537", ["goldfish"]),
        ("cardigan", ["cardigan"]),
        ("Cardigan Welsh corgi", ["cardigan_welsh_corgi"]),
        ("missile", ["missile"]),
        (["linnet", "house finch", 12], ["house_finch"]),
    ],
)
def test_words_of_a_synset_find_its_class(wanted: str, names: list[str]) -> None:
    assert [LABELS[k].name for k in resolve_labels(LABELS, wanted)] == names


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("crane", r"a word that names one class, got 'crane', a word of 2 classes; did you mean crane_bird, crane_machine\?"),
        ("panther", r"did you mean cougar, jaguar\?"),
        ("shark", r"index 0\.\.999, got 'shark'; did you mean great_white_shark, tiger_shark, hammerhead\?"),
        ("ladybrid", r"did you mean ladybird, ladybug"),
        ("qqqq", r"labels, with the same (--)?models or (--)?classifier, lists the classes"),
        ("1000", r"index 0\.\.999, got '1000'; python"),
    ],
)
def test_words_of_several_classes_or_none_are_answered_with_candidates(wanted: str, text: str) -> None:
    with pytest.raises(UserError, match=text) as error:
        resolve_labels(LABELS, wanted)
    assert "\n" not in str(error.value)
