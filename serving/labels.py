"""The label scheme: what the model can say about a text.

One place for the names, in the order of the model's output columns. Training, export, decoding, detectors and
the page all import it; the order is part of the model's interface, so append, never reorder.

Output tensors of one forward pass over a batch of B texts padded to T tokens (all float32; all but strangeness are
probabilities):

==============  ============  ==========================================================================
name            shape         meaning
==============  ============  ==========================================================================
``sentiment``   [B, 3]        softmax over :data:`POLARITIES`, for the text as a whole
``aspects``     [B, 13, 4]    per aspect a softmax over :data:`ASPECT_STATES` (absent first)
``demands``     [B, 10, 2]    per demand: probability that it is present, and its strength in [0, 1]
``strangeness`` [B, 1]        distance from shop language; beyond 1 lie 2 % of the shop texts that it was measured on
``evidence``    [B, T, 23]    per token and label (13 aspects, then 10 demands): probability that the token is evidence
==============  ============  ==========================================================================
"""

from typing import Final

POLARITIES: Final = ("negative", "neutral", "positive")
ASPECT_STATES: Final = ("absent", *POLARITIES)

ASPECTS: Final = (
    "quality", "efficacy", "appearance", "packaging", "price", "logistics", "service",
    "authenticity", "usability", "size", "freshness", "after-sales", "overall",
)  # fmt: skip

DEMANDS: Final = (
    "purchase_intent", "discount", "restock", "product_question", "feature_request",
    "return_refund", "delivery_urgency", "compatibility", "complaint_escalation", "recommendation_request",
)  # fmt: skip

EVIDENCE_LABELS: Final = ASPECTS + DEMANDS

#: Beside the labels among a model's thresholds: the least probability of a negative verdict on an aspect.
BLAME: Final = "negative"

#: Chinese names, for the page, the logs of a Chinese shop and the documentation.
NAMES_ZH: Final = {
    "quality": "质量", "efficacy": "功效", "appearance": "外观", "packaging": "包装", "price": "价格",
    "logistics": "物流", "service": "服务", "authenticity": "真伪", "usability": "易用性", "size": "尺寸",
    "freshness": "新鲜度", "after-sales": "售后", "overall": "整体",
    "purchase_intent": "购买意向", "discount": "优惠", "restock": "补货", "product_question": "商品咨询",
    "feature_request": "功能建议", "return_refund": "退换货", "delivery_urgency": "催发货", "compatibility": "兼容性",
    "complaint_escalation": "投诉升级", "recommendation_request": "求推荐",
}  # fmt: skip
