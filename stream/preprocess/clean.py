"""Cleaning: from what arrived to what can be read.

Reviews and chats arrive with markup, invisible characters, full-width digits, traditional characters, Cyrillic letters
in English words, blanks inside words of both languages and floods of the same sign; each would hide a telephone number
from the masking or split one demand into many spellings. `read` brings a text into one readable form, in which personal
data is searched. `tidy` then shortens it for the model, mends broken words (:mod:`broken`) and leaves out orders to the
model (:mod:`orders`). Both keep the trace back to the text as given, both are linear in its length, and neither raises.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files

from stream.preprocess import broken, orders
from stream.preprocess.align import Traced

CLEAN_CHARS = 2_000  # what the model reads at most
_TIDY_CHARS = 20_000  # of a longer text only this much is tidied: enough for CLEAN_CHARS after any honest flood

_BLOCK = "br|p|div|li|ul|ol|dl|dd|dt|tr|td|th|table|h1|h2|h3|h4|h5|h6|hr|section|article|blockquote"
_INLINE = (
    "a|abbr|b|big|body|button|center|cite|code|del|em|embed|font|footer|form|head|header|html|i|iframe|img|input|ins"
    "|label|link|main|mark|meta|nav|noscript|object|option|path|pre|s|script|select|small|source|span|strike|strong"
    "|style|sub|summary|sup|svg|tbody|textarea|tfoot|thead|time|title|tt|u|var|video|audio"
)
_SPACED = frozenset(_BLOCK.split("|"))
_TAGS = _SPACED | frozenset(_INLINE.split("|"))
_MARKUP = re.compile(
    r"<!--|</?([a-z][a-z0-9]{0,11})(?=[\s/>])[^<>]{0,2000}>|&(?:#[0-9]{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});",
    re.IGNORECASE,
)
_CLOSER = {
    "<!--": re.compile("-->"),
    "script": re.compile(r"</script\s{0,9}>", re.IGNORECASE),
    "style": re.compile(r"</style\s{0,9}>", re.IGNORECASE),
}

# Pictographs and regional indicators; skin tones are left out because `read` drops them.
EMOJI = "\u231a-\u23ff\u25a0-\u27bf\u2b05-\u2b55\U0001f000-\U0001f3fa\U0001f400-\U0001faff"
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200c"
    "\u200e\u200f\u202a-\u202e\u2060-\u206f\u20e3\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff"
    "\U0001f3fb-\U0001f3ff\U000e0000-\U000e0fff]+"
    # A zero-width joiner stays only where it holds two pictographs together.
    f"|\u200d+(?![{EMOJI}])|(?<![{EMOJI}\ufe0f\U0001f3fb-\U0001f3ff\u200d])\u200d+"
)
# Letters that look Latin: the Cyrillic and Greek part of the Unicode confusables (UTS 39). A word is rewritten only if
# it becomes wholly Latin, so Russian and Greek stay what they are.
_WORD = re.compile("[A-Za-z\u0370-\u03ff\u0400-\u052f]+")
_LATIN = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u0501\u03bf"
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0406\u0408\u0405\u0423"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7",
    "aeopcyxijshdoABEKMHOPCTXIJSYABEZHIKMNOPTYX",
)
_FLOOD = re.compile(
    r"\s+"
    rf"|(?P<faces>(?:[{EMOJI}](?:\u200d[{EMOJI}]){{0,6}}){{1,4}}?)(?P=faces){{3,}}"
    r"|(?P<sign>[^\d\s])(?P=sign){3,}"
)
_CUT_TAG = re.compile(r"\[[A-Z_]{0,10}\Z")


def read(text: str, keep_tags: bool = False) -> Traced:
    """The readable form: markup, unseen characters, look-alikes, compatibility and traditional characters resolved.

    `keep_tags` leaves the tags in, so that the values of their attributes can be searched for personal data.
    """
    read = Traced(text)
    if "<" in text or "&" in text:
        read = read.replace(_markup(text, keep_tags))
    read = read.rewrite(_UNSEEN, lambda _: "")
    if not read.text.isascii():
        read = read.recoded(_WORD.sub(_latin, read.text))
    if not unicodedata.is_normalized("NFKC", read.text):
        one_to_one, cluster = _compatibility()
        read = read.recoded(read.text.translate(one_to_one))
        if not unicodedata.is_normalized("NFKC", read.text):
            read = read.rewrite(cluster, lambda match: unicodedata.normalize("NFKC", match[0]))
    return read if read.text.isascii() else read.recoded(read.text.translate(_traditional()))


def has_tags(text: str) -> bool:
    """Whether `read` would remove a tag or a comment."""
    tags = _MARKUP.finditer(text) if "<" in text else ()
    return any((tag[1] or "").lower() in _TAGS or tag[0] == "<!--" for tag in tags)


def tidy(read: Traced) -> Traced:
    """Runs of one sign or emoji cut to three, white space squeezed and stripped, words broken by blanks mended,
    orders to the model left out, cut to length.

    Digits are left alone: 10000 is a price. A tag of personal data is never cut in half.
    """
    head = read.recoded(read.text[:_TIDY_CHARS]).rewrite(_FLOOD, _shortened)
    head = head.replace((start, end, "") for start, end in broken.find(head.text))
    head = head.replace((start, end, "") for start, end in orders.find(head.text))
    blank_front, blank_end = head.text[:1] == " ", head.text[-1:] == " " and len(head.text) > 1
    if blank_front or blank_end:
        edits = [(0, 1, "")] * blank_front + [(len(head.text) - 1, len(head.text), "")] * blank_end
        head = head.replace(edits)
    if len(head.text) <= CLEAN_CHARS:
        return head
    return head.recoded(_CUT_TAG.sub("", head.text[:CLEAN_CHARS]).rstrip())


def _latin(match: re.Match[str]) -> str:
    word = match[0].translate(_LATIN)
    return word if word.isascii() else match[0]


def _shortened(match: re.Match[str]) -> str:
    unit = match["faces"] or match["sign"]
    return unit * 3 if unit else " "


def _markup(text: str, keep_tags: bool) -> Iterator[tuple[int, int, str]]:
    """Edits that decode character references and, unless kept, remove tags, comments, scripts and styles."""
    done, unclosed = 0, set()
    for match in _MARKUP.finditer(text):
        start, end = match.span()
        if start < done:
            continue
        if match[0][0] == "&":
            yield start, end, html.unescape(match[0])
            continue
        if keep_tags:
            continue
        name = (match[1] or match[0]).lower()
        if match[1] and name not in _TAGS:  # "<iPhone 15>" is no markup
            continue
        if name in _CLOSER and match[0][1] != "/" and name not in unclosed:
            if closer := _CLOSER[name].search(text, end):
                end = closer.end()
            else:
                unclosed.add(name)  # never searched for again: an unclosed flood stays linear
        if name != "<!--" or name not in unclosed:
            yield start, end, " " if name in _SPACED else ""
        done = end


@cache
def _traditional() -> dict[int, str]:
    """Traditional to simplified, one character for one, from OpenCC's dictionary (its first choice)."""
    lines = (files("opencc") / "dictionary" / "TSCharacters.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split() for line in lines if not line.startswith("#"))
    return {ord(pair[0]): pair[1] for pair in pairs if len(pair) > 1 and len(pair[0]) == len(pair[1]) == 1}


@cache
def _compatibility() -> tuple[dict[int, str], re.Pattern[str]]:
    """What NFKC does: a table of one-for-one changes, and a pattern of the clusters in which lengths may change.

    A cluster is a character with all that may join it: marks, vowel signs and jamo that compose with what precedes.
    Source: Unicode Standard Annex 15, "stable code points" and the rules of concatenation.
    """
    one_to_one, longer, joining = {}, [], []
    seconds = set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    points = [*range(0xD800), *range(0xE000, 0x30000)]
    for point in points:
        parts = unicodedata.decomposition(chr(point)).split()
        if len(parts) == 2 and parts[0][0] != "<":
            seconds.add(int(parts[1], 16))
    for point in points:
        sign = chr(point)
        normal = unicodedata.normalize("NFKC", sign)
        if normal != sign and len(normal) == 1:
            one_to_one[point] = normal
        elif normal != sign:
            longer.append(point)
        first = unicodedata.normalize("NFKD", sign)[0]
        if unicodedata.combining(first) or ord(first) in seconds:
            joining.append(point)
    joins = char_class(joining)
    return one_to_one, re.compile(f"[^{joins}]?[{joins}]+|[{char_class(longer)}]", re.DOTALL)


def char_class(points: Iterable[int]) -> str:
    """The inside of a regular expression's character class for sorted code points, as ranges."""
    ranges: list[list[int]] = []
    for point in points:
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in ranges)
