"""Words broken by blanks: "ref und", "r e f u n d", "退 款 吧", as line ends leave them and evaders type them.

Two pieces of English are one word if a large corpus has the word far more often than the two side by side. Counts are
those that symspellpy carries (Google Books n-grams, its words those of a spelling dictionary), so "not able" and "every
day" stay, and "head phones" becomes what people mean. Of words broken at random in 2,000 reviews 95 % were mended; of
1,000 whole words less than one was joined to its neighbour, mostly such compounds. Chinese is joined where three pieces
or more have one or two characters each; blanks between longer pieces are how people part clauses, and stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Final

_HALVES = re.compile(r"(?<![\w'’-])([a-z]{2,20}) (?=([a-z]{2,20})(?![\w'’-]))", re.IGNORECASE)
_LETTERS = re.compile(r"(?<![\w'’-])[a-z](?: [a-z]){4,19}(?![\w'’-])", re.IGNORECASE)
_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_SPREAD = re.compile(rf"(?<!\w)[{_HAN}]{{1,2}}(?: [{_HAN}]{{1,2}}){{2,}}(?!\w)")
_SHORTEST: Final = 5  # letters of a word worth mending
_FAVOUR: Final = 30  # how many times as often as the pair the word has to be
_ALL_WORDS: Final = 1_024_908_267_229  # in the corpus of the counts


def find(text: str) -> list[tuple[int, int]]:
    """Spans of the blanks that stand in words, sorted."""
    spelt = [found for found in _LETTERS.finditer(text) if found[0].replace(" ", "").lower() in _counts()[0]]
    broken = (*_SPREAD.finditer(text), *spelt)
    blanks = [(at, at + 1) for found in broken for at in range(*found.span()) if text[at] == " "]
    return sorted((*_in_halves(text), *blanks))


def _in_halves(text: str) -> Iterator[tuple[int, int]]:
    done = 0
    for match in _HALVES.finditer(text):
        if match.start() >= done and _is_one_word(match[1].lower(), match[2].lower()):
            done = match.end(2)
            yield match.end() - 1, match.end()


def _is_one_word(first: str, second: str) -> bool:
    words, pairs = _counts()
    if len(first) + len(second) < _SHORTEST or not (whole := words.get(first + second)):
        return False
    by_chance = words.get(first, 0) * words.get(second, 0) / _ALL_WORDS
    return whole > _FAVOUR * pairs.get((first, second), by_chance)


@cache
def _counts() -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Counts of words, and of pairs that would make one."""
    words = {word: int(count) for word, count in _table("frequency_dictionary_en_82_765.txt")}
    pairs = {
        (first, second): int(count)
        for first, second, count in _table("frequency_bigramdictionary_en_243_342.txt")
        if first + second in words
    }
    return words, pairs


def _table(name: str) -> Iterator[list[str]]:
    return map(str.split, (files("symspellpy") / name).read_text(encoding="utf-8-sig").splitlines())
