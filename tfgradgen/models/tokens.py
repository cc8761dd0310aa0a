"""Texts and their tokens: what a text may be, how it is split, and files of tokens and captions. Needs no TensorFlow.

A text model takes strings, or the numbers of tokens. Then its model.json names a file in its folder:

    vocabulary   one token a line, its number that of the line from 0. Texts are split into words, in lower case.
    merges       the merges of a byte-pair encoding, as CLIP has them (Radford et al. 2021, `simple_tokenizer.py`).
"""

import functools
import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfgradgen.core.checks import check_int, did_you_mean, fail
from tfgradgen.core.parsing import parsing, read_text
from tfgradgen.core.text import as_text, printable, value_text
from tfgradgen.models.loading.metadata import file_of_model

LONGEST = 300  # characters of a text
MAX_CAPTIONS, MAX_CAPTION_BYTES = 1000, 1 << 20
MAX_VOCABULARY = 500_000  # tokens
MAX_LENGTH = 4096  # tokens of a text
PAD = "[PAD]"
START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_TOKENS = 49_408  # of CLIP; its file of merges has more lines than it uses
_WORD = re.compile(r"[^\W_]+")
_PIECE = re.compile(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE)


class Tokens(NamedTuple):
    """Texts as numbers.

    Attributes:
      ids: [num_texts, length] int64.
      mask: [num_texts, length] int64, 1 where a token is and 0 where the text is padded.
    """

    ids: np.ndarray
    mask: np.ndarray


def check_text(name: str, text: Any) -> str:
    """Return `text` without spaces at its ends.

    Raises:
      UserError: It is not a string, is empty or too long, or has characters that cannot be shown.
    """
    if not isinstance(text, str) or not text.strip():
        raise fail(name, "words that an image shows", value_text(text), 'give them, for example "a yellow bus"')
    if len(text) > LONGEST:
        raise fail(name, f"a text of at most {LONGEST} characters", f"{len(text):,}", "shorten it")
    if printable(text, None) != text:
        raise fail(name, "text without hidden characters", value_text(text), "type it again")
    return text.strip()


def words_of(text: str) -> list[str]:
    """Return the words of a text: its letters and digits, in lower case."""
    return _WORD.findall(text.lower())


def read_captions(file: Path, within: Path | None = None) -> tuple[str, ...]:
    """Return the captions of a file, one a line. Empty lines, lines that start with # and repetitions are left out.

    Args:
      file: The file.
      within: The folder of the model that it belongs to; None for a file that the user names.

    Raises:
      UserError: The file cannot be read, or holds no captions, too many, or one that `check_text` refuses.
    """
    where = f"captions {as_text(file)}"
    with parsing(where, "a text file with one caption a line", "give another file"):
        lines = read_text(file, MAX_CAPTION_BYTES, within).splitlines()
    rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if not rows or len(rows) > MAX_CAPTIONS:
        raise fail(where, f"1 to {MAX_CAPTIONS} captions, one a line", f"{len(rows):,}", "give a file with as many")
    return tuple(dict.fromkeys(check_text(f"{where} line {number}", line) for number, line in rows))


def caption_name(caption: str) -> str:
    """Return how errors name a reference caption."""
    return f"caption {value_text(caption)}"


def digest(captions: Iterable[str]) -> str:
    """Return the SHA-256 of captions, in order."""
    return hashlib.sha256("\n".join(captions).encode()).hexdigest()


class Words:
    """A vocabulary of words.

    Args:
      tokens: The tokens by number.
      start: The token before each text; None for none.
      end: The token after each text, likewise.
      where: Where the vocabulary is from, for errors.
    """

    def __init__(self, tokens: Sequence[str], start: str | None, end: str | None, where: str):
        self.known = {token: number for number, token in enumerate(tokens)}
        self.where, self.sha256 = where, digest(tokens)
        for token in (start, end):
            if token is not None and token not in self.known:
                raise fail(where, f"the token {as_text(token)}", "a vocabulary without it", "correct its model.json")
        self.start = [] if start is None else [self.known[start]]
        self.end = [] if end is None else [self.known[end]]
        self.pad = self.known.get(PAD, 0)

    def encode(self, texts: Sequence[str], names: Sequence[str], length: int) -> Tokens:
        """Return the tokens of `texts`, at most `length` each; errors name a text by its entry of `names`.

        Raises:
          UserError: A text has an unknown word, no word, or more tokens.
        """
        rows = [[*self.start, *self._numbers(text, name), *self.end] for text, name in zip(texts, names, strict=True)]
        return _padded(rows, names, length, self.pad)

    def _numbers(self, text: str, name: str) -> list[int]:
        words = words_of(text)
        if not words:
            raise fail(name, "words", value_text(text), "use letters")
        for word in words:
            if word not in self.known:
                remedy = did_you_mean(word, [each for each in self.known if _WORD.fullmatch(each)])
                raise fail(name, "words that the text model knows", word, remedy or f"{self.where} lists them")
        return [self.known[word] for word in words]


class Pairs:
    """The byte-pair encoding of CLIP: every text can be encoded.

    Args:
      merges: Pairs of pieces, the most frequent first.
    """

    def __init__(self, merges: Sequence[tuple[str, str]]):
        self.letters = _byte_letters()
        pieces = [*self.letters, *(f"{letter}</w>" for letter in self.letters), *map("".join, merges), START, END]
        self.known = {piece: number for number, piece in enumerate(pieces)}
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.by_byte = sorted(self.letters, key=lambda letter: self.letters[letter])
        self.sha256 = digest(map(" ".join, merges))

    def encode(self, texts: Sequence[str], names: Sequence[str], length: int) -> Tokens:
        """Return the tokens of `texts`, as `Words.encode` does; every word has some."""
        rows = [[self.known[START], *self._numbers(text), self.known[END]] for text in texts]
        return _padded(rows, names, length, 0)

    def _numbers(self, text: str) -> list[int]:
        pieces = (piece for word in _PIECE.findall(text.lower()) for piece in self._pieces(word))
        return [self.known[piece] for piece in pieces]

    def _pieces(self, word: str) -> list[str]:
        letters = [self.by_byte[byte] for byte in word.encode()]
        parts = [*letters[:-1], f"{letters[-1]}</w>"]
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            merged: list[str] = []
            for part in parts:
                if merged and (merged[-1], part) == best:
                    merged[-1] += part
                else:
                    merged.append(part)
            parts = merged
        return parts


@functools.cache
def _byte_letters() -> dict[str, int]:
    """Return a visible letter for each byte: {letter: byte}, in the order of CLIP's vocabulary."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + k): byte for k, byte in enumerate(hidden)}


def _padded(rows: Sequence[Sequence[int]], names: Sequence[str], length: int, pad: int) -> Tokens:
    ids, mask = np.full([len(rows), length], pad, np.int64), np.zeros([len(rows), length], np.int64)
    for k, (row, name) in enumerate(zip(rows, names, strict=True)):
        if len(row) > length:
            raise fail(name, f"a text of at most {length} tokens, as the text model takes", f"{len(row)}", "shorten it")
        ids[k, : len(row)], mask[k, : len(row)] = row, 1
    return Tokens(ids, mask)


def read_tokenizer(folder: Path, card: Mapping[str, Any], where: str) -> Words | Pairs | None:
    """Return the tokenizer that a model.json describes; None if it names no file of tokens.

    Args:
      folder: The model's folder. A file outside of it is refused.
      card: Content of its model.json.
      where: The model, for errors.

    Raises:
      UserError: The file is missing, outside of the folder, too large, or has no tokens.
    """
    name = next((each for each in ("vocabulary", "merges") if each in card), "")
    if not name:
        return None
    what = f"{name} of {where}"
    path = file_of_model(folder, card[name], what, "the name of a file in the model's folder", "correct its model.json")
    with parsing(what, "a text file in UTF-8", "correct the file"):
        lines = read_text(path, within=folder).splitlines()
    if len(lines) > MAX_VOCABULARY:
        raise fail(what, f"at most {MAX_VOCABULARY:,} lines", f"{len(lines):,}", "give the right file")
    if name == "merges":
        most = check_int(f"{where} num_tokens", card.get("num_tokens", CLIP_TOKENS), 514, MAX_VOCABULARY) - 514
        rows = [tuple(line.split()) for line in lines if "#version" not in line][:most]
        if not rows or any(len(row) != 2 for row in rows):
            raise fail(what, "two pieces a line", "another line" if rows else "none", "correct the file")
        return Pairs([(first, second) for first, second in rows])
    tokens = [line.strip() for line in lines]
    if not tokens or len({*tokens}) < len(tokens):
        raise fail(what, "distinct tokens, one a line", "none" if not tokens else "one twice", "correct the file")
    return Words(tokens, card.get("start_token"), card.get("end_token"), as_text(path))
