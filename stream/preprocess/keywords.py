"""Keywords and language: what a text is about, cheaply enough for every event.

Chinese words come from jieba (dictionary and hidden Markov model) and their parts of speech from its dictionary: the
tagger of jieba.posseg tries 256 states a character and takes ten times as long. English needs no parts of speech, for
what is not a stop word is a content word. Stop words stand in `stream/data/stopwords.txt`, words of the
trade that jieba lacks in `stream/data/words.txt`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from stream.preprocess.private import TAG

MOST = 12  # keywords a text
_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_IS_HAN = re.compile(f"[{_HAN}\U00020000-\U0002ffff]")
_IS_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")
_IS_OTHER = re.compile("[\u0370-\u1fff\u3040-\u30ff\uac00-\ud7af]")
_LATIN_PER_HAN = 4  # letters that say as much as one Han character
_BLOCK = re.compile(rf"[{_HAN}A-Za-z0-9\u00c0-\u024f'+#-]+")
_ENGLISH = re.compile("[a-z\u00c0-\u024f][a-z0-9\u00c0-\u024f'-]*[a-z0-9\u00c0-\u024f]")
_CONTENT = ("n", "v", "a", "i", "l", "j")  # nouns, verbs, adjectives, idioms, set phrases, short forms
_GLUE = "不没别很太最更好还也都就才又再刚已被把给这那我你他她它了着过的得地个一下上来去在和跟是会能要"


def language(clean: str) -> str:
    """ "zh" or "en", whichever carries more of the text, or "other" where neither does; tags do not count."""
    bare = TAG.sub(" ", clean)
    han, latin = len(_IS_HAN.findall(bare)), len(_IS_LATIN.findall(bare)) / _LATIN_PER_HAN
    if not (han or latin) or len(_IS_OTHER.findall(bare)) > max(han, latin):
        return "other"
    return "zh" if han >= latin else "en"


def keywords(clean: str) -> tuple[str, ...]:
    """Up to MOST content words in order of first appearance, English ones in small letters."""
    stop, found = _stop_words(), dict[str, None]()
    for block in _BLOCK.findall(TAG.sub(" ", clean)):
        for word in _chinese(block) if _IS_HAN.search(block) else _ENGLISH.findall(block.lower()):
            if word not in stop:
                found[word] = None
        if len(found) >= MOST:
            break
    return tuple(found)[:MOST]


def warm_up() -> None:
    """Load jieba now (about a second) and not with the first event."""
    _jieba()


def _chinese(block: str) -> Iterator[str]:
    jieba, content = _jieba()
    for word in map(str.lower, jieba.cut(block)):
        if word.isascii():
            if _ENGLISH.fullmatch(word):
                yield word
        elif word in content:
            yield word
        elif not jieba.FREQ.get(word):  # found by the hidden Markov model, which likes to glue: 刚买, 不响, 戴着
            word = word.strip(_GLUE)
            if len(word) > 1 or word in content:
                yield word


@cache
def _jieba() -> tuple[Any, frozenset[str]]:
    """The tokenizer, and the words of its dictionary that are content words."""
    import jieba

    jieba.setLogLevel(logging.ERROR)
    tokenizer = jieba.Tokenizer()
    own = _lines("words.txt")
    for word in own:
        tokenizer.add_word(word)
    with tokenizer.get_dict_file() as dictionary:
        entries = (line.decode("utf-8").split(" ") for line in dictionary)
        return tokenizer, frozenset((*own, *(word for word, _, tag in entries if tag.startswith(_CONTENT))))


@cache
def _stop_words() -> frozenset[str]:
    return frozenset(word for line in _lines("stopwords.txt") for word in line.split())


def _lines(name: str) -> list[str]:
    text = (files("stream") / "data" / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]
