"""Preprocessing: the one door through which a text enters the worker.

`prepare` turns what a customer wrote into what the model reads, and into the only form that may leave the worker: the
text as given with personal data replaced by tags. It promises never to raise, to be linear in the text, and to keep
every span of the clean text traceable to the text as given and to the masked one. `mask` is the masking alone, for
logs and dead letters.

Spans count code points, end exclusive.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from stream.preprocess import clean as cleaning
from stream.preprocess import duplicates, private, terms
from stream.preprocess.align import Alignment, Span, Traced
from stream.preprocess.duplicates import near_duplicates
from stream.preprocess.keywords import keywords, language, warm_up
from stream.preprocess.names import Names
from stream.preprocess.spans import Found, blanked, joined

__all__ = [
    "Entity",
    "Mask",
    "Names",
    "Prepared",
    "mask",
    "near_duplicates",
    "normalise_product_name",
    "prepare",
    "warm_up",
]


@dataclass(frozen=True, slots=True)
class Entity:
    """Something concrete a text names.

    `type` is one of private.TYPES (then `text` is the tag, never the value) or price, quantity, size, colour, date,
    time, brand, product, model, service (then `text` is the readable form). `span` is in the text as given.
    """

    type: str
    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Mask:
    """One replaced value: its type, where it stood in the text as given and where its tag stands in the masked one."""

    type: str
    given: Span
    masked: Span


@dataclass(frozen=True, slots=True)
class Prepared:
    """A text, ready.

    clean: what the model reads, at most clean.CLEAN_CHARS characters; holds tags and no personal data.
    masked: the text as given with personal data replaced by tags.
    language: "zh", "en" or "other".
    entities: personal data and order terms of the whole text, in order of appearance.
    keywords: up to 12 content words of `clean`, in order of first appearance.
    fingerprint: 64-bit simhash of `clean`; near-duplicates lie within a Hamming distance of 3.
    digest: 16 hex characters, equal for texts that differ in case, white space and masked values alone.
    """

    clean: str
    masked: str
    language: str
    entities: tuple[Entity, ...]
    keywords: tuple[str, ...]
    fingerprint: int
    digest: str
    _steps: tuple[Alignment, ...] = field(default=(), repr=False, compare=False)
    _masking: Alignment = field(default=Alignment(), repr=False, compare=False)

    def to_given(self, start: int, end: int) -> Span:
        """The span of the text as given that a span of `clean` was read from; part of a tag gives the whole value."""
        return Traced(self.clean, self._steps).back(start, end)

    def to_masked(self, start: int, end: int) -> Span:
        """The span of `masked` for a span of `clean`; part of a tag gives the whole tag."""
        return self._masking.forward(*self.to_given(start, end))

    @property
    def masks(self) -> tuple[Mask, ...]:
        """What was masked, in order: the offset map of the masking."""
        pairs = zip(self._masking.old, self._masking.new, strict=True)
        return tuple(Mask(self.masked[new[0] + 1 : new[1] - 1], old, new) for old, new in pairs)


def prepare(text: str, names: Names | None = None) -> Prepared:
    """Clean, mask and describe a text, whose entities include what ``names`` knows; never raises."""
    read = cleaning.read(text)
    found = private.find(read.text)
    masked = _masked(text, _given(text, read, found))
    masking = masked.steps[0] if masked.steps else Alignment()
    tagged = _tagged(read, found)
    clean = cleaning.tidy(tagged)
    whole = tagged.text if len(tagged.text) > cleaning.CLEAN_CHARS else clean.text
    return Prepared(
        clean=clean.text,
        masked=masked.text,
        language=language(clean.text),
        entities=_entities(read, found, masked, masking, names or _NO_NAMES),
        keywords=keywords(clean.text),
        fingerprint=duplicates.fingerprint(clean.text),
        digest=duplicates.digest(whole),
        _steps=clean.steps,
        _masking=masking,
    )


def mask(text: str) -> str:
    """The text as given with personal data replaced by tags; masking twice changes nothing."""
    read = cleaning.read(text)
    return _masked(text, _given(text, read, private.find(read.text))).text


def _given(text: str, read: Traced, found: list[Found]) -> list[Found]:
    """Personal data in the text as given: what can be read, and what hides in the attributes of tags."""
    spans = [Found(*read.back(start, end), kind) for start, end, kind in found]
    if cleaning.has_tags(text):
        raw = cleaning.read(text, keep_tags=True)
        spans += (Found(*raw.back(start, end), kind) for start, end, kind in private.find(raw.text))
    return joined(spans)


def _tagged(text: Traced, found: Iterable[Found]) -> Traced:
    return text.replace((start, end, f"[{kind}]") for start, end, kind in found)


def _masked(text: str, found: Iterable[Found]) -> Traced:
    return _tagged(Traced(text), found)


def _entities(read: Traced, found: list[Found], masked: Traced, masking: Alignment, names: Names) -> tuple[Entity, ...]:
    pairs = zip(masking.old, masking.new, strict=True)
    entities = [Entity(masked.text[new[0] + 1 : new[1] - 1], masked.text[slice(*new)], old) for old, new in pairs]
    blank = blanked(read.text, found)
    for start, end, kind in joined((*terms.find(blank), *names.find(blank))):
        entities.append(Entity(kind, read.text[start:end], read.back(start, end)))
    return tuple(sorted(entities, key=lambda entity: entity.span))


_NO_NAMES = Names()
_BRACKETED = re.compile(r"[【\[(《「{][^】\])》」}]{0,30}[】\])》」}]")
_NAME_PARTS = re.compile(
    "[a-z\u00c0-\u024f]+|[0-9]+(?:\\.[0-9]+)?|[\u3400-\u9fff]+|[^\\W\\d_a-z\u00c0-\u024f\u3400-\u9fff]+"
)
_PRAISE = re.compile(
    "官方|正品|旗舰店?|专卖店|自营|包邮|新款|新品|热卖|爆款|现货|特价|限时|促销|秒杀|同款|清仓|送礼|[买送]\\w赠\\w|20[12]\\d年?(?=新|款)"
    "|\\b(?:official|authentic|genuine|brand new|hot sale|free shipping|new arrival|in stock)\\b"
)


def normalise_product_name(name: str) -> str:
    """One spelling for one product: readable form, small letters, no bracketed or bare praise, parts apart.

    "【官方正品】Apple/苹果 iPhone15 Pro" and "apple 苹果 IPHONE 15 pro" both become "apple 苹果 iphone 15 pro". A name
    that is praise alone keeps it.
    """
    readable = cleaning.read(name).text.casefold()
    bare = _PRAISE.sub(" ", _BRACKETED.sub(" ", readable))
    return " ".join(_NAME_PARTS.findall(bare) or _NAME_PARTS.findall(readable))
