"""How the labels of public data sets become ours, and where they may not.

A category either means one of our aspects (``TO_ASPECT``) or leaves some in doubt (``DOUBT``): "gift enclosed" may or
may not be about the price. What is in doubt is masked in that row, never guessed. An aspect counts as absent only
where the data set labels it exhaustively (``COVERED``). docs/labels.md shows these tables with examples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from serving.labels import ASPECTS, DEMANDS

ALL_ASPECTS: Final = frozenset(ASPECTS)
ALL_DEMANDS: Final = frozenset(DEMANDS)


@dataclass(frozen=True)
class Scheme:
    """One data set's categories. Keys match the longest prefix, so that "Camera#" covers all cameras' attributes."""

    covered: frozenset[str]
    to_aspect: Mapping[str, str]
    doubt: Mapping[str, tuple[str, ...]]

    def aspect(self, category: str) -> str | None:
        """Our aspect for a category, or None where it has none or is in doubt."""
        found, doubtful = _longest(self.to_aspect, category), _longest(self.doubt, category)
        return self.to_aspect[found] if found and len(found) >= len(doubtful or "") else None

    def doubted(self, category: str) -> tuple[str, ...]:
        """The aspects about which a row with this category says nothing certain; all of them if it is unknown."""
        if self.aspect(category):
            return ()
        doubtful = _longest(self.doubt, category)
        return ASPECTS if doubtful is None else self.doubt[doubtful]


def _longest(table: Mapping[str, object], category: str) -> str | None:
    return max((key for key in table if category.startswith(key)), key=len, default=None)


#: Zhijiang Cup 2019, cosmetics. "很好用" is labelled 整体 there, and smells and ingredients have no counterpart here.
ZHIJIANG: Final = Scheme(
    covered=ALL_ASPECTS - {"quality", "appearance", "after-sales"},
    to_aspect={
        "价格": "price", "包装": "packaging", "物流": "logistics", "服务": "service", "功效": "efficacy",
        "真伪": "authenticity", "使用体验": "usability", "尺寸": "size", "新鲜度": "freshness", "整体": "overall",
    },
    doubt={"气味": ("efficacy", "usability"), "成分": ("efficacy",)},
)  # fmt: skip

#: ASQP zh-FoodBeverage. Taste and texture are what food is for: efficacy. It has no category for a verdict as a whole.
ASQP_ZH: Final = Scheme(
    covered=ALL_ASPECTS - {"overall"},
    to_aspect={
        "食品饮料-味道": "efficacy", "食品饮料-口感": "efficacy", "食品饮料-功效": "efficacy",
        "食品饮料-饱腹感": "efficacy",
        "食品饮料-健康#新鲜度": "freshness", "食品饮料-健康#干净/卫生": "quality", "食品饮料-产品规格": "size",
        "通用-价格": "price", "通用-包装": "packaging", "通用-物流": "logistics", "通用-卖家#商家/客服态度": "service",
        "通用-卖家#响应": "service", "通用-卖家#专业性": "service", "通用-卖家#发货": "logistics",
        "通用-产品质量#品质": "quality", "通用-产品质量#洁净度": "quality", "通用-产品质量#生产日期": "freshness",
        "通用-产品质量#正品": "authenticity", "通用-感官#外观": "appearance", "通用-感官#颜色": "appearance",
        "通用-感官#款式": "appearance", "通用-感官#大小": "size", "通用-感官#材质": "quality",
        "通用-使用#使用方便/简单": "usability", "通用-使用#便携性": "usability", "通用-使用#说明书/教程": "usability",
        "通用-退换货": "after-sales", "通用-买家态度#购物体验": "overall", "通用-买家态度#值得推荐": "overall",
    },
    doubt={
        "食品饮料-": ("quality", "efficacy"), "食品饮料-溶解性": ("quality", "efficacy", "usability"),
        "食品饮料-配套配件": ("quality", "usability", "packaging"), "通用-物流#运费": ("logistics", "price"),
        "通用-卖家": ("service", "overall"), "通用-促销": ("price", "service"),
        "通用-产品质量": ("quality", "packaging"),
        "通用-感官": ("quality", "efficacy"), "通用-使用": ("usability", "quality", "efficacy"),
        "通用-买家态度": ("overall", "quality", "authenticity"), "通用-品牌实力": ("overall", "quality"),
        "通用-产地来源": ("quality",),
    },
)  # fmt: skip

_DEVICE: Final = ("quality", "efficacy", "usability")

#: ASQP en-Phone. What a device does well or badly is efficacy; defects and workmanship are quality.
ASQP_EN: Final = Scheme(
    covered=ALL_ASPECTS - {"freshness"},
    to_aspect={
        "Overall": "overall", "Buyer Attitude#Recommendable": "overall",
        "Buyer Attitude#Shopping Experiences": "overall",
        "Logistics#Speed": "logistics", "Logistics#general": "logistics", "Seller Service#Shipping": "logistics",
        "Price": "price", "Seller Service#Attitude": "service",
        "Seller Service#Timeliness of Seller Service": "service",
        "Seller Service#Seller Expertise": "service", "Product Quality#General": "quality",
        "Product Quality#Genuine Product": "authenticity", "Product Packaging#General": "packaging",
        "Product Packaging#Packaging": "packaging", "After-sales Service": "after-sales",
        "Ease of Use#Easy to Use": "usability", "Appearance Design#Aesthetics General": "appearance",
        "Appearance Design#Color": "appearance", "Appearance Design#Fuselage Size": "size", "Screen#Size": "size",
        "Appearance Design#Workmanship and Texture": "quality", "Appearance Design#Grip Feeling": "usability",
        "Camera": "efficacy", "Shooting Functions": "efficacy", "Battery/Longevity": "efficacy",
        "Audio/Sound": "efficacy",
        "Signal": "efficacy", "Performance": "efficacy", "Screen#Clarity": "efficacy",
        "System#Operation Smoothness": "efficacy",
    },
    doubt={
        "Logistics": ("logistics", "packaging", "quality", "overall"), "Buyer Attitude": ("overall",),
        "Seller Service": (),
        "Ease of Use": ("usability",), "Branding/Marketing": ("price", "service"), "Product Accessories": _DEVICE,
        "Product Quality": ("quality",), "Product Packaging": ("packaging", "usability"),
        "Appearance Design": ("appearance", "size", "usability", "quality"), "Key Design": (*_DEVICE, "appearance"),
        "System": _DEVICE, "Screen": _DEVICE, "Security": _DEVICE, "Smart Connect": _DEVICE,
        "Intelligent Assistant": _DEVICE, "Product Configuration": _DEVICE,
    },
)  # fmt: skip

#: Laptop-ACOS and DimABSA laptops: the entity decides where it is a service, else the attribute.
LAPTOP: Final = Scheme(
    covered=frozenset({"logistics", "service", "price", "quality", "efficacy", "usability"}),
    to_aspect={
        "SHIPPING#": "logistics", "SUPPORT#": "service", "WARRANTY#": "after-sales", "#PRICE": "price",
        "#QUALITY": "quality",
        "#OPERATION_PERFORMANCE": "efficacy", "#USABILITY": "usability", "LAPTOP#GENERAL": "overall",
    },
    doubt={
        "SHIPPING#PRICE": ("logistics", "price"), "SUPPORT#PRICE": ("service", "price", "after-sales"),
        "WARRANTY#PRICE": ("after-sales", "price"), "SUPPORT#QUALITY": ("service", "after-sales"),
        "#GENERAL": _DEVICE, "#DESIGN_FEATURES": _DEVICE, "#PORTABILITY": ("usability",), "#CONNECTIVITY": _DEVICE,
        "#MISCELLANEOUS": _DEVICE, "COMPANY#": (*_DEVICE, "service", "after-sales"),
    },
)  # fmt: skip


def laptop_category(category: str) -> str:
    """``ENTITY#ATTRIBUTE`` as :data:`LAPTOP` keys it: without the entity where that is a part of the device."""
    whole = ("SHIPPING#", "SUPPORT#", "WARRANTY#", "COMPANY#", "LAPTOP#GENERAL", "Out_Of_Scope#")
    return category if category.startswith(whole) else "#" + category.split("#")[1]


#: OATS Amazon fine food. "food general" mixes verdicts with taste, so only prices and shipments are certain.
OATS: Final = Scheme(
    covered=frozenset({"price", "logistics", "service", "after-sales"}),
    to_aspect={"food prices": "price", "amazon prices": "price", "shipment delivery": "logistics"},
    doubt={
        "food": (), "amazon": ("service",), "shipment": ("logistics", "packaging", "price"),
        "polarity": ("price", "logistics", "service", "after-sales"),
    },
)  # fmt: skip


@dataclass(frozen=True)
class Intent:
    """What an intent says about demands: those present with their strength, and those left in doubt."""

    demands: Mapping[str, float]
    doubt: tuple[str, ...] = ()


#: Bitext customer service. Absent from this table: intents about which nothing is certain.
BITEXT: Final[Mapping[str, Intent]] = {
    "get_refund": Intent({"return_refund": 0.8}),
    "track_refund": Intent({"return_refund": 0.6}),
    "check_refund_policy": Intent({"return_refund": 0.4}),
    "complaint": Intent({"complaint_escalation": 0.7}),
    "delivery_period": Intent({"delivery_urgency": 0.4}),
    "track_order": Intent({"delivery_urgency": 0.5}),
    "place_order": Intent({"purchase_intent": 0.7}),
    "contact_human_agent": Intent({}, ("complaint_escalation",)),
    "contact_customer_service": Intent({}, ("complaint_escalation",)),
    "cancel_order": Intent({}, ("return_refund",)),
    "payment_issue": Intent({}, ("complaint_escalation", "purchase_intent")),
    "recover_password": Intent({}),
    "create_account": Intent({}),
    "edit_account": Intent({}),
    "switch_account": Intent({}),
    "newsletter_subscription": Intent({}),
    "get_invoice": Intent({}),
    "check_invoice": Intent({}),
    "set_up_shipping_address": Intent({}),
    "change_shipping_address": Intent({}),
}

#: HINT3 (evaluation only). Its intents exclude one another, so a demand found here is absent under other intents.
HINT3: Final[Mapping[str, Intent]] = {
    "ORDER_STATUS": Intent({"delivery_urgency": 0.5}),
    "DELAY_IN_PARCEL": Intent({"delivery_urgency": 0.6}),
    "DELAY_IN_DELIVERY": Intent({"delivery_urgency": 0.7}),
    "REFUNDS_RETURNS_REPLACEMENTS": Intent({"return_refund": 0.7}),
    "RETURN_EXCHANGE": Intent({"return_refund": 0.7}),
    "RECOMMEND_PRODUCT": Intent({"recommendation_request": 0.6}),
    "OFFERS": Intent({"discount": 0.5}),
    "CANCEL_ORDER": Intent({}, ("return_refund",)),
    "RESUME_DELIVERY": Intent({}, ("delivery_urgency",)),
    "ORDER_QUERY": Intent({}, ("delivery_urgency", "return_refund")),
    "CONSULT_START": Intent({}, ("recommendation_request",)),
}
HINT3_DEMANDS: Final = frozenset({"delivery_urgency", "return_refund", "recommendation_request", "discount"})
#: Queries that the shop's own bot could not place; they may hold any demand.
HINT3_UNPLACED: Final = "NO_NODES_DETECTED"

#: CLINC150 intents that no shop's customer could mean as a demand; "oos" (out of scope) comes on top.
CLINC_FOREIGN: Final = frozenset(
    {
        "weather", "alarm", "timer", "calculator", "definition", "flip_coin", "date", "time", "exchange_rate",
        "tell_joke", "fun_fact", "translate", "spelling", "greeting", "goodbye", "thank_you", "who_made_you",
        "are_you_a_bot", "roll_dice", "pin_change", "mpg", "tire_pressure", "meaning_of_life", "find_phone",
        "calendar", "reminder", "yes", "no", "maybe", "what_is_your_name", "how_old_are_you", "traffic",
    }
)  # fmt: skip
