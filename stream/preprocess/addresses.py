"""Postal addresses by their shape, not by a gazetteer.

A Chinese address is found from its numbered door ("…路12号3栋502室"), the rarest part, and then read backwards to a
province or to a word such as 寄到: a pattern for the whole of it would backtrack over every run of characters. An
English one starts with its house number ("123 Main Street, Apt 4").
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from stream.preprocess.spans import Found

_HAN = "\u3400-\u9fff\U00020000-\U0002ffff"
_N = "[0-9A-Za-z零〇一二三四五六七八九十百]{1,6}"
_ROAD = (
    "(?:路|街|大道|(?<![知味频])道|巷|胡同|弄|村|组|屯|小区|社区|花园|公寓|大厦|广场|苑|院)"
    "(?:[东南西北中]?[0-9一二三四五六七八九十]?[段路])?"
)
_BUILDING = "(?:大厦|小区|社区|花园|公寓|广场|中心|苑|园|城|村)"
_DOOR_NO = (
    rf"(?:{_N}(?:-\d{{1,4}})? ?(?:号楼|号院|号|弄|栋|幢|座|单元)(?![线发到收下买之以左前后才])"
    r"|\d{1,5}(?:-\d{1,5}){1,2})"
)
_INSIDE = (
    rf"(?:[ ,-]?(?:[{_HAN}]{{1,10}}?{_BUILDING})? ?[东西南北]?{_N}"
    r"(?:号楼|号院|号|弄|栋|幢|座|单元|层|楼|室|房|门|户|组)(?![线发到]))"
)
_ROOM = r"\d{2,5}(?![\d元件块.])"
_DOOR = re.compile(
    rf"{_ROAD} ?{_DOOR_NO}{_INSIDE}{{0,6}}(?: ?-?{_ROOM})?"
    rf"|{_N} ?(?:栋|幢|号楼) ?(?:{_N} ?单元 ?)?(?:{_N}室|{_ROOM}(?:号|房)?)"
)
_PROVINCE = re.compile(
    "北京|天津|上海|重庆|河北|山西|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|河南|湖北|湖南|广东|海南|四川|贵州"
    "|云南|陕西|甘肃|青海|台湾|内蒙古|广西|西藏|宁夏|新疆|香港|澳门"
)
_BEFORE = re.compile("改成|换成|写成|发货|[在到至寄送住址是去往给为:]")
_REACH = 40  # characters read backwards from the door at most
_REACH_UNSURE = 16  # and at most where neither a province nor an introducing word shows the beginning
_STATED = re.compile(r"(?:地址|住址|送货至|寄到|发到|送到)(?: ?[:是为])? ?(?P<value>[^,;。!?\n\]\[]{6,60})")
_PLACE = re.compile("[省市区县镇乡村路街道巷弄号栋幢楼室园苑厦座]")

_SUFFIX = "Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Parkway|Pkwy|Highway|Hwy|street|avenue|road"
_WEAK_SUFFIX = "Dr|Court|Ct|Way|Place|Pl|Square|Sq|Terrace|Ter|Circle|Cir"  # words of their own: longer numbers only
_FLAT = r"(?:,? {0,2}(?:[Aa]pt|[Aa]partment|[Ss]uite|[Ss]te|[Uu]nit|[Ff]loor|[Rr]oom|[Rr]m|#)\.? ?#?[A-Za-z0-9-]{1,6})"
_CITY = r"(?:, ?[A-Z][A-Za-z.]{1,20}(?: [A-Z][a-z]{1,20}){0,2})?(?:,? [A-Z]{2})?(?:,? \d{5}(?:-\d{4})?)?"
_NAMES = r"(?:(?:[NSEW]\.?|North|South|East|West) )?(?:[A-Z][A-Za-z'-]{1,20} |\d{1,3}(?:st|nd|rd|th) ){1,3}"
_STREET = re.compile(
    rf"(?<![\w.$])(?:\d{{1,6}}[A-Za-z]? {_NAMES}(?:{_SUFFIX})|\d{{2,6}}[A-Za-z]? {_NAMES}(?:{_WEAK_SUFFIX}))\b\.?"
    rf"(?: [NSEW]{{1,2}}\b)?{_FLAT}?{_CITY}"
    r"|(?<![\w.$])\d{1,6} (?:[a-z]{2,20} ){1,2}(?:street|st|avenue|ave|road|rd|boulevard|blvd|lane|drive)\b\.?"
    rf"(?:{_FLAT}|(?=,| ?\Z|\. ))"
    r"|(?<!\w)[Pp]\.? ?[Oo]\.? [Bb]ox \d{1,8}"
)


def find(text: str) -> Iterator[Found]:
    """Addresses in a readable text, in no order, possibly overlapping."""
    if not text.isascii():
        floor = 0
        for door in _DOOR.finditer(text):
            start, floor = _front(text, floor, door.start()), door.end()
            if door.end() - start >= 6:
                yield Found(start, door.end(), "ADDRESS")
        for stated in _STATED.finditer(text):
            if len(_PLACE.findall(stated["value"])) >= 3:
                yield Found(*stated.span("value"), "ADDRESS")
    for street in _STREET.finditer(text):
        yield Found(*street.span(), "ADDRESS")


def _front(text: str, floor: int, door: int) -> int:
    """Where the address whose door stands at `door` begins, not before `floor`."""
    reach, at = max(floor, door - _REACH), door
    while at > reach and (text[at - 1].isalnum() or (text[at - 1] == " " and text[at - 2] in "省市区县镇乡州道村")):
        at -= 1
    if province := _PROVINCE.search(text, at, door):
        return province.start()
    at = max([at, *(word.end() for word in _BEFORE.finditer(text, at, door))])
    return max(at, door - _REACH_UNSURE)
