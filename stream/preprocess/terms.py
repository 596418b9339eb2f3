"""Order terms: the prices, amounts, sizes, colours, dates and brands that make a wish concrete.

Plain rules over the shadow of a readable text (`spans.shadow`), after personal data has been blanked out: a number
with its unit, or a word of `stream/data/terms.txt`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from stream.preprocess.spans import Found, joined, shadow

_N = r"(?:(?<![\d.])\d{1,9}(?:[,.]\d{1,3}){0,3}|[0-9两十百千万半几]{1,9})"
_SPELT = "(?:one|two|three|four|five|six|seven|eight|nine|ten|a few|a couple of)"
_CURRENCY = "万元|元|块钱|rmb|cny|usd|dollars?|bucks|yuan|quid|euros?|美元|美金|港币|欧元|日元"
_MEASURES = (
    "公斤|千克|斤|克|kg|g|kilos?|oz|lbs?|pcs|pieces?|items?|units?|pairs?|boxes|packs?|sets?|bottles?|cans?|bags?|jars?"
)
_MONTH = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}"
_WEEKDAY = "(?:week|month|weekend|monday|tuesday|wednesday|thursday|friday|saturday|sunday)"
_RULES: dict[str, tuple[str, ...]] = {
    "price": (
        rf"(?:[¥$€£]|(?<![a-z])(?:rmb|usd|us\$)) ?{_N}(?:-{_N})?(?: ?[元万])?",
        rf"(?:\d{{1,7}}[-~到至])?{_N} ?(?:{_CURRENCY})(?![a-z])",
        r"(?:[2-9两]|[0-9十百千]{2,9})块(?:\d(?!\d))?(?![头儿])",  # "1块" may be 一块, together
        r"(?<![\d.])\d{1,5}(?:\.\d{1,2})?(?=包邮)",
        r"(?<![\d.])[2-9](?:\.?\d)?折(?![叠腾磨伞页])",  # "1折" may be 一折, when bent
        r"满 ?\d{1,5} ?[减送] ?\d{1,5}|(?<![\d.])\d{1,2} ?% off(?![a-z])",
    ),
    "date": (
        r"(?<!\d)(?:19|20)\d\d[-/.年] ?\d{1,2}(?:[-/.月] ?\d{1,2}[日号]?|月)?(?!\d)",
        r"(?<!\d)\d{1,2}月(?:\d{1,2}[日号]?|[底初中])|(?<!\d)[0-3]?\d号(?![线楼店色院])",
        r"(?:[上下这本]个?)?月[底初末]",
        r"双十[12]|双1[12](?!\d)|(?<!\d)618(?!\d)|[上下这本]个?(?:周[1-6日天末]?|星期[1-6日天]?|月)",
        rf"(?<![a-z]){_MONTH}\.? \d{{1,2}}(?:st|nd|rd|th)?(?!\d)|(?<![a-z])(?:next|last|this) {_WEEKDAY}",
    ),
    "time": (
        r"(?<![\d:])[0-2]?\d:[0-5]\d(?::[0-5]\d)?(?: ?[ap]m)?(?![\d:])|(?<!\d)1?\d ?[ap]m(?![a-z])",
        r"(?:凌晨|早上|上午|中午|下午|晚上)(?:[0-9十]{1,3}点(?:半|[0-9十]{1,3}分)?)?",
        r"(?<![第有0-9])(?:[2-9]|1\d|2[0-4])点(?:钟|半|[0-9十]{1,3}分)",  # "1点" may be 一点, a little
        rf"(?<!第){_N} ?(?:个多?(?:月|星期|小时|钟头)|天|小时|分钟|周(?!年)|星期|年(?![级货款代新]))(?:以?内|前|后)?",
        rf"(?<![a-z\d.])(?:\d{{1,3}}|{_SPELT}|half an|an) (?:min|minute|hour|day|week|month|year)s?(?: ago)?(?![a-z])",
    ),
    "size": (
        r"(?<![\d.])\d{1,4}(?:\.\d)?(?: ?[x×*] ?\d{1,4}(?:\.\d)?){1,2} ?(?:cm|mm|m|厘米|毫米|米)?(?![a-z])",
        rf"{_N} ?(?:cm|mm|厘米|毫米|公分|英寸|寸|inch(?:es)?|feet|ft|gb|tb|ml|毫升|升|码半?)(?![a-z])",
        r"(?:欧码|英码|(?<![a-z])(?:eu|uk)) ?\d{1,2}(?:\.5)?(?![\d.a-z])|(?<![\d/])1[4-9]\d/\d{2,3}[a-c]?(?![\d/])",
        r"(?<![\d.])\d{1,3}(?:\.\d)?米",
        r"(?<![a-z0-9])(?:[2-6]xl|x{1,4}l|xx?s)(?![a-z0-9])码?|(?<![a-z'])[sml]码|均码|[加特]?[大中小](?:码|号(?!码))",
        r"(?<![a-z])size (?:\d{1,2}(?:\.5)?|[xsml]{1,4})(?![a-z])",
    ),
    "quantity": (
        rf"{_N} ?(?:件|个(?![月小星人])|只|台|双|套(?!路)|箱|盒|瓶|包(?!邮)|袋|条|本|支|部(?!分)|张|把|份|对(?!比))",
        rf"(?:{_N} ?|(?<![a-z]){_SPELT} )(?:{_MEASURES})(?![a-z])|(?<![a-z])(?:half )?a dozen(?![a-z])",
    ),
    "model": (
        r"(?<![a-z0-9])(?:iphone|galaxy|mate|pura|redmi|rtx|gtx|ps|switch|kindle) ?\d{1,4}[a-z]{0,2}(?![a-z0-9])",
    ),
}
# Where a rule can begin: the rest is passed over quickly.
_FIRST = "[0-9a-z¥$€£两十百千万半几双上下这本凌早中晚均大小加特满欧英月]"
_NAMED = "|".join(f"(?P<{kind}>{'|'.join(rules)})" for kind, rules in _RULES.items())
_NUMBERED = re.compile(f"(?={_FIRST})(?:{_NAMED})")


def find(blank: str) -> list[Found]:
    """The terms of a readable text whose personal data is blanked, sorted and apart; types in small letters."""
    return joined(_search(shadow(blank)))


def _search(dark: str) -> Iterator[Found]:
    for match in _NUMBERED.finditer(dark):
        yield Found(*match.span(), match.lastgroup or "")
    pattern, types = _words()
    for match in pattern.finditer(dark):
        yield Found(*match.span(), types[match[0]])


@cache
def _words() -> tuple[re.Pattern[str], dict[str, str]]:
    """One pattern of all words, longest first, and the type of each."""
    types: dict[str, str] = {}
    for line in (files("stream") / "data" / "terms.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            kind, _, words = line.partition(":")
            types |= {shadow(word.strip()): kind for word in words.split(",")}
    longest_first = sorted(types, key=len, reverse=True)
    bounded = (rf"{re.escape(word)}(?![a-z])" if word.isascii() else re.escape(word) for word in longest_first)
    return re.compile(rf"(?<![a-z])(?:{'|'.join(bounded)})"), types
