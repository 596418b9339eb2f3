"""Puts the words into the shoppers' mouths: joins the clauses of ``phrases_zh`` and ``phrases_en`` to texts.

A review is an opener, one or two clauses about aspects, and a closer; a mixed one turns with a "but". Some texts carry
typos, emoji or made-up personal data, as real ones do: a phone number of the block 139 0000, an order number, an
address at example.com.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Final, Literal

from stream.simulate import phrases_en, phrases_zh
from stream.simulate.catalog import CATEGORIES_EN, Product
from stream.simulate.dice import Dice

Language = Literal["zh", "en"]
Mood = Literal["negative", "neutral", "positive"]

_PHRASES: Final[dict[Language, ModuleType]] = {"zh": phrases_zh, "en": phrases_en}
_JOINTS: Final[dict[Language, tuple[str, ...]]] = {
    "zh": ("，", "，", "。", "！", " "),
    "en": (", ", ". ", " and ", "! "),
}

WANTED: Final = ("请问有没有{}卖", "想买{}，你们店有吗？", "什么时候能上{}啊，一直没有", "{}还会有货吗")

TYPO_SHARE = 0.04
PERSONAL_REVIEWS = 0.01
PERSONAL_CHATS = 0.06


def review(dice: Dice, product: Product, language: Language, said: Sequence[tuple[Mood, str]]) -> str:
    """A review that says one clause for each (mood, aspect) of ``said``."""
    phrases = _PHRASES[language]
    text = dice.pick(phrases.OPENERS)
    previous: Mood | None = None
    for mood, aspect in said:
        if previous:
            text += dice.pick(_JOINTS[language] if mood == previous else phrases.BUT)
        text += _clause(dice, product, language, mood, aspect)
        previous = mood
    moods = {mood for mood, _ in said}
    closer = dice.pick(phrases.CLOSERS[said[0][0] if len(moods) == 1 else "neutral"])
    if closer:
        text += dice.pick(("，", "。", " ") if language == "zh" else (". ", " ", "! ")) + closer
    return _finish(dice, text, language, PERSONAL_REVIEWS)


def complaint(dice: Dice, product: Product, language: Language, aspect: str) -> str:
    """A chat message that complains about one aspect."""
    return _finish(dice, _clause(dice, product, language, "negative", aspect), language, PERSONAL_CHATS)


def ask(dice: Dice, product: Product, language: Language, demand: str) -> str:
    """A chat message in which a customer voices a demand."""
    text = _fill(dice, dice.pick(_PHRASES[language].DEMANDS[demand]), product, language)
    return _finish(
        dice,
        text + dice.pick(("", "", "？", "~") if language == "zh" else ("", "", "?", "??")),
        language,
        PERSONAL_CHATS,
    )


def answer(dice: Dice, language: Language, demand: str) -> str:
    return str(dice.pick(_PHRASES[language].AGENT_REPLIES[demand]))


def greeting(dice: Dice, language: Language) -> tuple[str, str]:
    """What the customer and then the agent say first."""
    phrases = _PHRASES[language]
    return dice.pick(phrases.GREETINGS), dice.pick(phrases.AGENT_GREETINGS)


def small_talk(dice: Dice, language: Language) -> tuple[str, str]:
    """A customer's message without any demand, and the agent's last word."""
    phrases = _PHRASES[language]
    return dice.pick(phrases.SMALL_TALK), dice.pick(phrases.AGENT_CLOSINGS)


def _clause(dice: Dice, product: Product, language: Language, mood: Mood, aspect: str) -> str:
    phrases = _PHRASES[language]
    if mood == "neutral":
        return str(dice.pick(phrases.NEUTRAL))
    stock = phrases.NEGATIVE if mood == "negative" else phrases.POSITIVE
    return _fill(dice, dice.pick(stock[aspect]), product, language)


def _fill(dice: Dice, clause: str, product: Product, language: Language) -> str:
    if "{" not in clause:
        return clause
    return clause.format(
        p=product.zh if language == "zh" else product.en,
        c=product.category if language == "zh" else CATEGORIES_EN[product.category],
        v=dice.pick(_PHRASES[language].INTENSIFIERS),
    )


def _finish(dice: Dice, text: str, language: Language, personal: float) -> str:
    phrases = _PHRASES[language]
    if dice.chance(TYPO_SHARE):
        for right, wrong in phrases.TYPOS:
            text = text.replace(right, wrong, 1)
    if dice.chance(personal):
        text += ("，" if language == "zh" else ", ") + dice.pick(phrases.PERSONAL).format(
            phone=f"1390000{dice.below(10_000):04d}",
            order=f"2026{dice.below(10**12):012d}",
            email=f"shopper{dice.below(1000)}@example.com",
        )
    return text[0].upper() + text[1:] if language == "en" and dice.chance(0.6) else text
