"""Training rows as careless, evasive and hostile writers would put them, with the labels they had.

Somebody says who he is, a seller's search terms or an order to "the AI" follow, letters are slips, a dialect is
written. None of it changes what is said about the shop, so a row keeps the text it came from (``Row.plain``) and the
trainer also asks for the same answer to both. Names and words are drawn from ``disturb.toml``, other than those of
:mod:`training.probes`, which tests how well this carries over; the frames are those of the language.
"""

import json
import random
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Final

from pypinyin import lazy_pinyin

from training.data import Mixture, Row, clean, identity, without_leaks

#: What :func:`with_disturbed` draws from, the more often a set is named the more, and how many rows it makes.
_SOURCES: Final = ("utterances", "utterances", "annotated", "zhijiang", "asqp_zh", "asqp_en", "amazon")
_LONGEST: Final = 160
DIALECTS: Final = Path(__file__).parent / "dialects"
#: By language: names, places, kinds of people, frames, remarks, search terms, and words as they sound.
_WORDS: Final[Mapping[str, Mapping[str, Any]]] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
)
_WHO: Final = ("name", "place", "being", "kin")

_EMOJI: Final = "😀🐱🎈🌸🚲📷🧦🍉⭐🎀🪑📎🌧🎧"
_SPELT: Final = (  # by ear
    ("ph", "f"), ("ck", "k"), ("ght", "t"), ("ee", "ea"), ("ea", "ee"), ("ie", "ei"), ("tion", "shun"), ("ou", "u"),
    ("wh", "w"), ("th", "d"), ("ss", "s"), ("ll", "l"), ("tt", "t"), ("er", "a"), ("ing", "in"), ("ve", "v"),
    ("c", "k"), ("a", "e"), ("e", "i"), ("i", "e"), ("o", "u"), ("s", "z"), ("y", "ie"), ("ful", "full"),
)  # fmt: skip


# --- making rows ----------------------------------------------------------------------------------------------------


def with_disturbed(mixture: Mixture) -> Mixture:
    """The mixture with two more sets: "disturbed", three for every utterance, and "dialects", utterances rewritten."""
    rows = [row for name in _SOURCES for row in mixture.sets.get(name, []) if len(row.text) <= _LONGEST]
    made = disturbed(rows, 3 * len(mixture.sets["utterances"]))
    held_out = [row.text for rows in mixture.tests.values() for row in rows]
    spoken, _ = without_leaks(in_dialect(mixture.sets["utterances"]), held_out)
    return replace(mixture, sets={**mixture.sets, "disturbed": made, "dialects": spoken})


def disturbed(rows: Sequence[Row], count: int, seed: int = 0) -> list[Row]:
    """``count`` rows, each disturbed in one way, now and then two. Evidence stays where the words do, else unknown."""
    chooser = random.Random(seed)
    made = []
    for row in chooser.choices(rows, k=count):
        found = chooser.choice(_WAYS)(row, chooser)
        if chooser.random() < 0.15:
            found = chooser.choice(_WAYS)(found, chooser)
        made.append(found if found.text == row.text else replace(found, source="disturbed", plain=row.text))
    return made


def in_dialect(rows: Sequence[Row], folder: Path = DIALECTS) -> list[Row]:
    """The rows that ``folder`` has in a dialect or in learner's language, as such; where evidence stands is unknown."""
    items = (json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.open(encoding="utf-8"))
    spoken = {item["of"]: item["text"] for item in items}
    return [
        replace(_reworded(row, spoken[name]), source="dialects", plain=row.text)
        for row in rows
        if (name := identity(row.text)) in spoken
    ]


def _reworded(row: Row, text: str) -> Row:
    text = clean(text)
    return row if text in ("", row.text) else replace(row, text=text, spans={}, known_spans=frozenset())


def introduced(row: Row, chooser: random.Random) -> Row:
    """Who is speaking comes first, or last; evidence moves along."""
    words = _WORDS[row.lang]
    who = {kind: chooser.choice(words[kind]) for kind in _WHO}
    if chooser.random() < 0.25:
        return replace(row, text=row.text.rstrip("。.") + chooser.choice(words["feet"]).format(**who))
    head = chooser.choice(words["heads"]).format(**who)
    moved = {name: tuple((a + len(head), b + len(head)) for a, b in spans) for name, spans in row.spans.items()}
    return replace(row, text=head + row.text, spans=moved)


def advertised(row: Row, chooser: random.Random) -> Row:
    """Search terms of other products come last."""
    return replace(row, text=" ".join([row.text, *chooser.sample(_WORDS[row.lang]["wares"], chooser.randint(2, 9))]))


def followed(row: Row, chooser: random.Random) -> Row:
    """An order to the model or a remark comes last."""
    return replace(row, text=row.text + clean("x" + chooser.choice(_WORDS[row.lang]["tails"]))[1:])


def decorated(row: Row, chooser: random.Random) -> Row:
    """An emoji that says nothing after some clauses, or at the end."""
    sign, share = chooser.choice(_EMOJI), chooser.random()
    text = re.sub(r"(?<=[,，。.!?！？;；])(?=.)", lambda _: sign * (chooser.random() < share), row.text)
    return _reworded(row, text + sign * chooser.randint(1, 2))


def slipped(row: Row, chooser: random.Random) -> Row:
    """Words as they sound, in Chinese characters of the same sound, and characters dropped, doubled or swapped."""
    text = row.text
    for word, sound in _WORDS[row.lang]["sounds"].items():
        text = text.replace(word, sound)
    share = chooser.uniform(0.05, 0.3)
    if row.lang == "zh":
        return _reworded(row, "".join(_slip_zh(one, share, chooser) for one in text))
    words = re.split(r"(\W+)", text)
    return _reworded(row, "".join(_slip_en(one, chooser) if chooser.random() < 1.5 * share else one for one in words))


def spread_out(row: Row, chooser: random.Random) -> Row:
    """Blanks where none belong."""
    share = chooser.uniform(0.1, 0.5) if row.lang == "zh" else chooser.uniform(0.03, 0.12)
    return _reworded(row, "".join(character + " " * (chooser.random() < share) for character in row.text))


def masked(row: Row, chooser: random.Random) -> Row:
    """Some characters are others, as look-alikes are to those who never saw them; English letters become digits."""
    share = chooser.uniform(0.03, 0.15)
    if row.lang == "zh":
        common = list(known := _homophones())
        text = "".join(chooser.choice(common) if chooser.random() < share and one in known else one for one in row.text)
    else:
        table = str.maketrans("aeiosAEIOS", "4310543105")
        text = "".join(one.translate(table) if chooser.random() < 2 * share else one for one in row.text)
    return _reworded(row, text)


def _slip_zh(character: str, share: float, chooser: random.Random) -> str:
    if chooser.random() >= share or not (alike := _homophones().get(character)):
        return character
    return chooser.choice(alike) if chooser.random() < 0.8 else chooser.choice(("", character * 2))


def _slip_en(word: str, chooser: random.Random) -> str:
    if len(word) < 3 or not word.isalpha():
        return word
    if chooser.random() < 0.4:
        fitting = [pair for pair in _SPELT if pair[0] in word[1:]]
        if fitting:
            heard, spelt = chooser.choice(fitting)
            return word[0] + word[1:].replace(heard, spelt, 1)
    at = chooser.randrange(1, len(word) - 1)
    return chooser.choice((
        word[:at] + word[at + 1 :], word[:at] + word[at] * 2 + word[at + 1 :],
        word[:at] + word[at + 1] + word[at] + word[at + 2 :], word[0] + re.sub("[aeiou]", "", word[1:]),
    ))  # fmt: skip


@cache
def _homophones() -> dict[str, list[str]]:
    """Every common character (GB 2312, first level) with the others of its sound, tones aside."""
    cells = (bytes((row, cell)) for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF))
    common = [one for cell in cells if (one := cell.decode("gb2312", "ignore"))]
    sounds: dict[str, list[str]] = {}
    for one, sound in zip(common, chain.from_iterable(lazy_pinyin(one) for one in common), strict=True):
        sounds.setdefault(sound, []).append(one)
    return {one: [other for other in alike if other != one] for alike in sounds.values() for one in alike}


_WAYS: Final[tuple[Callable[[Row, random.Random], Row], ...]] = (
    introduced, introduced, introduced, advertised, advertised, followed, decorated, slipped, slipped, spread_out,
    masked,
)  # fmt: skip
