"""Captions of images from what is known and measured: class names, WordNet words, kinds of things, colours, brightness."""

import re
from typing import NamedTuple

import numpy as np

from tfgradgen.models.imagenet import imagenet_labels
from tools.train.colours import BRIGHT, COLOURS, DARK

ADJECTIVES = (*COLOURS, "dark", "bright")
PAD = "[PAD]"  # the first token of the vocabulary
MAX_TOKENS = 14
MIN_SHARE = 0.3  # of a region, before a caption names its colour
DOUBT_SHARE, DOUBT_LUMA = 0.12, 0.08  # from here on it may be said that a region has a colour, or is dark or bright
GENERAL = ("thing", "object", "subject")
BACKGROUNDS = ("background", "backdrop", "ground")
# Kind -> words of class names; the first kind with a fitting class counts. Written by hand, after WordNet's hypernyms.
KINDS = {
    "fish": "goldfish",
    "butterfly insect": "monarch sulphur_butterfly",
    "insect bug": "ladybug bee fly dragonfly grasshopper mantis cockroach",
    "spider": "black_widow tarantula",
    "bird": "king_penguin albatross black_stork goose",
    "dog": "chihuahua german_shepherd golden_retriever labrador_retriever standard_poodle yorkshire_terrier",
    "cat": "egyptian_cat persian_cat tabby cougar lion",
    "monkey ape": "baboon chimpanzee orangutan",
    "bear": "brown_bear koala lesser_panda",
    "frog": "bullfrog tailed_frog",
    "snake": "boa_constrictor",
    "animal": "european_fire_salamander jellyfish brain_coral african_elephant american_alligator american_lobster "
    "arabian_camel bighorn bison centipede dugong gazelle guinea_pig hog ox scorpion sea_cucumber sea_slug slug snail "
    "spiny_lobster trilobite",
    "car": "sports_car beach_wagon convertible limousine police_van moving_van go-kart",
    "bus": "school_bus trolleybus",
    "vehicle": "bullet_train freight_car jinrikisha lawn_mower lifeboat gondola tractor",
    "tower building": "beacon water_tower obelisk",
    "building": "barn barbershop butcher_shop birdhouse cliff_dwelling confectionery triumphal_arch thatch",
    "bridge": "steel_arch_bridge suspension_bridge viaduct",
    "fruit": "orange banana lemon pomegranate acorn",
    "vegetable": "bell_pepper cauliflower",
    "food": "pizza guacamole ice_cream ice_lolly mashed_potato meat_loaf potpie pretzel mushroom",
    "drink": "espresso",
    "mountain landscape": "alp cliff",
    "water landscape": "seashore coral_reef lakeside fountain dam",
    "clothes": "academic_gown apron bikini bow_tie cardigan fur_coat kimono military_uniform miniskirt poncho sandal sock "
    "sombrero swimming_trunks vestment christmas_stocking",
    "ball": "basketball rugby_ball volleyball punching_bag",
    "bottle": "beer_bottle pill_bottle pop_bottle water_jug",
}
ON_ROADS = ("car", "bus", "vehicle")
IN_WATER = ("goldfish", "jellyfish", "brain_coral", "coral_reef", "seashore", "lakeside", "dugong", "lifeboat", "snorkel")
ON_SNOW = ("alp", "king_penguin", "cliff")
ON_TABLES = ("food", "drink", "fruit", "vegetable", "bottle")
# {s}: subject's adjective with a space after it, {n}: noun, {b}: background's adjective, {p}: place, {l}: brightness.
TEMPLATES = {
    "both": (
        "a {s} {n} on a {b} {p}",
        "a {s} {n} in front of a {b} {p}",
        "a {s} {n} with a {b} {p}",
        "a photo of a {s} {n} on a {b} {p}",
        "a {b} {p} with a {s} {n}",
        "{s} {n}, {b} {p}",
        "a {b} {p} behind a {s} {n}",
        "a {s} {n} and a {b} {p}",
    ),
    "subject": ("a {s} {n}", "a photo of a {s} {n}", "the {n} is {s}", "{s} {n}", "a {n} that is {s}"),
    "background": (
        "a {n} on a {b} {p}",
        "a {n} in front of a {b} {p}",
        "a {b} {p} behind a {n}",
        "a {n} with a {b} {p}",
        "a photo of a {n} on a {b} {p}",
    ),
    "noun": ("a {n}", "a photo of a {n}", "{n}", "a picture of a {n}", "the {n}"),
    "light": ("a {l} photo of a {n}", "a {l} picture of a {n}", "a {l} image"),
}
SHARES = {"both": 0.5, "subject": 0.16, "background": 0.14, "noun": 0.13, "light": 0.07}
OTHER_WORDS = {"grey": "gray", "photo": "photograph", "picture": "image"}  # written instead in one caption of five


class Parts(NamedTuple):
    """A caption before it is written.

    Attributes:
      template: One of `TEMPLATES`.
      noun: What the subject is.
      subject: Its adjective.
      background: The adjective of the background.
      place: What the background is.
      light: dark or bright, of the whole image.
    """

    template: str
    noun: str
    subject: str = ""
    background: str = ""
    place: str = ""
    light: str = ""

    @property
    def text(self):
        words = self.template.format(s=self.subject, n=self.noun, b=self.background, p=self.place, l=self.light)
        return re.sub(r"\ba(?= [aeiou])", "an", words)


class Nouns:
    """The nouns of each class: its name, the words of its synset, its last word, its kind."""

    def __init__(self, names):
        known = {label.name: label.synset for label in imagenet_labels(1000)}
        self.own, self.kinds = {}, {}
        for name in names:
            synset = known.get(name.replace("-", "_").replace("'", ""), known.get(f"{name}_bird", ""))
            words = [
                word.strip()
                for word in synset.split(",")
                if word.strip() and not re.search(r" [a-z]+us\b|^[A-Z]\w+ [a-z]+$", word)
            ]
            words = [name.replace("_", " "), *(word.lower() for word in words)]
            words += [words[0].split()[-1]]
            self.own[name] = list(dict.fromkeys(plain(word) for word in words))
            self.kinds[name] = next((kind.split() for kind, of in KINDS.items() if name in of.split()), [])

    def draw(self, name, rng):
        """Return a noun for an image of class `name`; '' for an image of no known class."""
        u = rng.random()
        if not name or u < 0.15:
            return rng.choice(GENERAL)
        if u < 0.3 and self.kinds[name]:
            return rng.choice(self.kinds[name])
        own = self.own[name]
        return own[0] if rng.random() < 0.5 else rng.choice(own)

    def places(self, name, adjective):
        """Return the places that fit a class and the adjective of its background."""
        kinds = self.kinds.get(name, [])
        found = list(BACKGROUNDS)
        found += ["road", "street"] if set(kinds) & set(ON_ROADS) else []
        found += ["table", "plate"] if set(kinds) & set(ON_TABLES) else []
        found += ["grass", "leaves", "meadow"] if adjective == "green" and name not in IN_WATER else []
        found += ["water", "sea"] if name in IN_WATER and adjective in ("blue", "green", "dark") else []
        found += ["sky"] if adjective in ("blue", "grey", "white", "bright") and name not in IN_WATER else []
        return found + (["snow"] if name in ON_SNOW and adjective in ("white", "bright") else [])


def plain(text):
    """Return the words of `text` in lower case, separated by single spaces."""
    return " ".join(words_of(text))


def words_of(text):
    """Return the words of a text: letters and digits, in lower case. `models.text` splits texts in the same way."""
    return re.findall(r"[^\W_]+", text.lower())


def adjective(shares, luma, rng, against=None):
    """Draw an adjective of a region from its colours [11] and its luma; '' if none fits.

    `against` are the colours of the other region: a colour of which it has less is likelier.
    """
    if rng.random() < 0.15 and not DARK <= luma <= BRIGHT:
        return "dark" if luma < DARK else "bright"
    weight = np.where(shares >= MIN_SHARE, shares**2, 0.0)
    if against is not None:
        weight = weight * shares / (shares + 0.5 * against + 1e-6)
    return rng.choices(COLOURS, weight)[0] if weight.sum() > 0 else ""


def caption(name, found, nouns, rng):
    """Return the `Parts` of a caption that is true of an image.

    Args:
      name: Its class; '' for none.
      found: Its row of `colours.measured`.
      nouns: A `Nouns`.
      rng: A `random.Random`.
    """
    subject = adjective(found["subject"], found["subject_luma"], rng, found["background"])
    background = adjective(found["background"], found["background_luma"], rng)
    light = "dark" if found["luma"] < DARK else "bright" if found["luma"] > BRIGHT else ""
    fits = {"both": subject and background, "subject": subject, "background": background, "noun": True, "light": light}
    kinds = [kind for kind in TEMPLATES if fits[kind]]
    kind = rng.choices(kinds, [SHARES[kind] for kind in kinds])[0]
    place = rng.choice(nouns.places(name, background)) if kind in ("both", "background") else ""
    template = rng.choice(TEMPLATES[kind])
    return Parts(
        template,
        nouns.draw(name, rng),
        subject if kind in ("both", "subject") else "",
        background if place else "",
        place,
        light if kind == "light" else "",
    )


def may_be(word, found, region):
    """Return whether an adjective may be true of a region, so that no caption that is meant to be false uses it."""
    if word in COLOURS:
        return found[region][COLOURS.index(word)] >= DOUBT_SHARE
    luma = found[f"{region}_luma"]
    return luma < DARK + DOUBT_LUMA if word == "dark" else luma > BRIGHT - DOUBT_LUMA


def contrary(parts, found, names, nouns, rng):
    """Return `parts` made false by one change: the adjectives swapped, another adjective or another noun."""
    swapped = parts._replace(subject=parts.background, background=parts.subject)
    is_false = lambda each: not (may_be(each.subject, found, "subject") and may_be(each.background, found, "background"))  # noqa: E731
    ways = ["noun", *(["swap"] * 3 if parts.subject and parts.background and is_false(swapped) else [])]
    ways += ["subject"] * 2 if parts.subject else []
    ways += ["background"] * 2 if parts.background else []
    way = rng.choice(ways)
    if way == "swap":
        return swapped
    if way == "noun":
        return parts._replace(noun=nouns.draw(rng.choice(names), rng))
    false = [word for word in ADJECTIVES if not may_be(word, found, way)]
    elsewhere = [word for word in false if may_be(word, found, "background" if way == "subject" else "subject")]
    return parts._replace(**{way: rng.choice(elsewhere if elsewhere and rng.random() < 0.5 else false)})


def vocabulary(names):
    """Return the tokens: `PAD`, then all words that captions of the classes `names` can have, sorted."""
    nouns = Nouns(names)
    words = {word for own in nouns.own.values() for noun in own for word in words_of(noun)}
    words |= {word for kind in KINDS for word in kind.split()}
    words |= {word for group in TEMPLATES.values() for each in group for word in words_of(re.sub(r"\{.\}", " ", each))}
    words |= {*ADJECTIVES, *GENERAL, *BACKGROUNDS, *OTHER_WORDS.values(), "an"}
    words |= {*["road", "street", "table", "plate", "grass", "leaves", "meadow", "water", "sea", "sky", "snow"]}
    return [PAD, *sorted(words)]


def varied(text, rng):
    """Return `text`, in one of five with other words for the same."""
    if rng.random() < 0.8:
        return text
    return " ".join(OTHER_WORDS.get(word, word) for word in text.split(" "))


def encode(texts, known):
    """Return the tokens int32 [N, MAX_TOKENS] of texts; `known` is {word: token}. All words must be known."""
    tokens = np.zeros((len(texts), MAX_TOKENS), "int32")
    for row, text in enumerate(texts):
        ids = [known[word] for word in words_of(text)][:MAX_TOKENS]
        tokens[row, : len(ids)] = ids
    return tokens
