"""Numbers that identify a person: telephones, identity and bank cards, orders, accounts.

The rules run over the shadow of a text (`spans.shadow`), so Chinese numerals count as digits. A rule with a group
`value` is introduced by words ("订单号", "my number is"); the words stay and the value is masked.

Sources: GB 11643-1999 (identity card and its check digit), ISO/IEC 7812-1 (13 to 19 digits, Luhn), ITU-T E.164
(international numbers, at most 15 digits), the mobile prefixes 13 to 19 of the Chinese numbering plan.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from stream.preprocess.spans import Found

_GAP = r"[ \-.·_~*]{0,3}"
_CHINA = rf"(?:(?:\+ ?|00)?86\)?{_GAP})?"
_EXTENSION = r"(?:(?:,? ?转 ?|-|,? ?ext\.? ?|,? ?x)\d{1,5})?"
_IS = r"(?: ?[:是为#]| is)?"
_DATE_OF_BIRTH = r"(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
_ID_CARD = rf"[1-9]\d{{5}}[ -]?(?:1[89]|20)\d\d[ -]?{_DATE_OF_BIRTH}[ -]?\d{{3}}[\dx]"
_CARD_GROUPS = r"\d{4}([ -])\d{4}(?:\1\d{4}){1,2}(?:\1\d{1,4}){0,2}|\d{4}[ -]\d{6}[ -]\d{5}|\d{6}[ -]\d{13}"
_WECHAT = r"(?:微信|薇信|威信|(?<![a-z])(?:v信|vx|wx|weixin|wechat))"
_PHONE_WORD = (
    r"(?:电话|座机|手机号?码?|联系方式|\b(?:tel|phone|telephone|call(?: me)?(?: at| on)?|mobile|cell|fax))"
    r"(?: ?(?:number|号码?|no\.?))?"
)
_ORDER_WORD = (
    r"(?:(?:订单|运单|快递|物流|单|流水|交易|退款)(?:编?号码?|单号)?"
    r"|\b(?:order|tracking|invoice|reference|ticket|transaction)(?: ?(?:no\.?|number|num|id|code|#))|\border)"
)
_RULES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        # Mobile in groups 3-4-4 or 3-3-5, or unbroken.
        ("PHONE", rf"(?<!\d)(?<!\d\.)\(?{_CHINA}1[3-9]\d\)?{_GAP}(?:\d{{4}}{_GAP}\d{{4}}|\d{{3}}{_GAP}\d{{5}})(?!\d)"),
        # Mobile spread by any amount of one kind of separator: "1 3 8 0 0 …", "138-00-138000".
        *(
            ("PHONE", rf"(?<!\d)(?<!\d{gap}){_CHINA}1{gap}{{0,3}}[3-9](?:{gap}{{0,3}}\d){{9}}(?!{gap}?\d)")
            for gap in (" ", r"\-", r"\.", "[,、]", r"[·_~*/|]")
        ),
        # Landline with its area code; service numbers.
        ("PHONE", rf"(?<!\d)\(?0(?:10|2\d|[3-9]\d\d)\)?[ -]{{0,2}}[1-9]\d{{2,3}}[ -]?\d{{4}}{_EXTENSION}(?!\d)"),
        ("PHONE", r"(?<!\d)[48]00[ -]?\d{3,4}[ -]?\d{3,4}(?!\d)"),
        # Any number that is called a telephone.
        ("PHONE", rf"{_PHONE_WORD}{_IS} ?(?P<value>\(?\d(?:[ \-.()]{{0,2}}\d){{6,14}})(?![\d元块])"),
        # International; North American.
        ("PHONE", r"(?<![\d+])(?:\+|00)[1-9](?:[ \-.()/]{0,3}\d){7,14}(?!\d)"),
        (
            "PHONE",
            r"(?<![\d.-])(?:1[ .-]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d[.-])[2-9]\d\d[ .-]\d{4}"
            rf"{_EXTENSION}(?![\d-])",
        ),
        ("ID_CARD", rf"(?<!\d){_ID_CARD}(?![\da-z])"),
        ("ID_CARD", rf"(?<!\d)[1-9]\d{{7}}{_DATE_OF_BIRTH}\d{{3}}(?!\d)"),
        (
            "ID_CARD",
            r"(?:身份证|\bid (?:card|no|number))[^\d\[\]]{0,6}(?P<value>\d(?:[ -]?\d){13,16}[ -]?[\dx])(?![\da-z])",
        ),
        # Bank cards unbroken, in groups, or digit by digit.
        ("BANK_CARD", rf"(?<!\d)(?:\d{{13,19}}|{_CARD_GROUPS}|\d(?: \d){{12,18}}|\d(?:-\d){{12,18}})(?!\d)"),
        (
            "BANK_CARD",
            r"(?:卡号|银行卡|信用卡|储蓄卡|\bcard (?:no|number))[^\d\[\]]{0,6}(?P<value>\d(?:[ -]?\d){11,18})(?!\d)",
        ),
        # Orders and parcels: introduced, or digits too many for a price or an amount.
        (
            "ORDER_NO",
            rf"{_ORDER_WORD}(?: ?[:是为#]| is){{0,2}} {{0,2}}"
            r"(?P<value>(?=(?:[a-z_-]{0,12}\d){5})[a-z0-9][a-z0-9_-]{7,})",
        ),
        ("ORDER_NO", r"#(?P<value>(?=(?:[a-z-]{0,6}\d){6})[a-z0-9][a-z0-9-]{7,})"),
        ("ORDER_NO", r"(?<!\d)\d{3}-\d{7}-\d{7}(?!\d)"),
        ("ORDER_NO", r"(?<![a-z])[a-z]{2}\d{12,}|(?<!\d)(?<!\d\.)(?!(\d)\1{9,}(?!\d))\d{10,}"),
        # Accounts: after a colon or "号" any name will do, otherwise it must hold a digit.
        (
            "WECHAT",
            rf"{_WECHAT}(?: ?(?:号码?|id){_IS}| ?:| ?[是加]?(?= ?[a-z-]{{0,19}}[\d_])) {{0,2}}"
            r"(?P<value>[a-z0-9][a-z0-9_-]{5,19})(?![a-z0-9_-])",
        ),
        ("QQ", rf"(?:(?<![a-z])qq|扣扣|企鹅)(?:号码?|群号?)?{_IS} ?(?P<value>[1-9]\d{{4,10}})(?!\d)"),
    )
)
_FIVE_DIGITS = re.compile(r"\d(?:\D{0,20}\d){4}")


def find(dark: str) -> Iterator[Found]:
    """Numbers in a shadow text, in no order, possibly overlapping."""
    if not _FIVE_DIGITS.search(dark) and not _NAMED.search(dark):
        return
    for kind, pattern in _RULES:
        introduced = "value" in pattern.groupindex
        for match in pattern.finditer(dark):
            start, end = match.span("value") if introduced else match.span()
            if introduced or kind not in _CHECKED or _CHECKED[kind](dark[start:end]):
                yield Found(start, end, kind)


_NAMED = re.compile(_WECHAT)  # the only account that may hold no digit


def _identity(value: str) -> bool:
    """The check digit of an 18-digit card; the 15 digits of old cards have none."""
    digits = re.sub("[ -]", "", value)
    total = sum(int(digit) * (1 << (17 - i)) for i, digit in enumerate(digits[:17]))
    return len(digits) == 15 or "10x98765432"[total % 11] == digits[17]


def _luhn(value: str) -> bool:
    digits = [int(digit) for digit in value if digit.isdigit()][::-1]
    return (sum(digits[::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])) % 10 == 0


_CHECKED: dict[str, Callable[[str], bool]] = {"ID_CARD": _identity, "BANK_CARD": _luhn}
