"""The shelves of the simulated shop: thirty products of six categories, all invented.

``make_catalog(n)`` gives the first ``n`` of them, and beyond thirty further styles of the same products, so that a load
test can have thousands. Product ids, prices and stock are the same on every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

#: What customers of each category talk about, most common first.
CATEGORY_ASPECTS: Final = {
    "数码": ("quality", "usability", "appearance", "logistics", "price", "packaging", "efficacy", "service",
             "authenticity", "after-sales", "overall"),
    "美妆": ("efficacy", "packaging", "authenticity", "price", "logistics", "appearance", "service", "after-sales",
             "overall"),
    "零食水果": ("freshness", "packaging", "logistics", "price", "service", "after-sales", "overall"),
    "服饰": ("size", "quality", "appearance", "price", "logistics", "service", "packaging", "after-sales", "overall"),
    "小家电": ("efficacy", "usability", "quality", "after-sales", "price", "logistics", "packaging", "appearance",
               "service", "overall"),
    "玩具": ("quality", "appearance", "usability", "packaging", "price", "logistics", "size", "service", "overall"),
}  # fmt: skip

CATEGORIES_EN: Final = {
    "数码": "electronics", "美妆": "skincare", "零食水果": "snacks", "服饰": "clothes", "小家电": "appliances",
    "玩具": "toys",
}  # fmt: skip

_SHELF: Final[list[tuple[str, str, str, str, str, float, int, dict[str, Any]]]] = [
    # category, everyday name (zh, en), title, brand, price, stock, attributes
    ("数码", "手机", "phone", "云雀 X7 5G智能手机 12GB+256GB 星夜黑", "云雀", 2699.0, 320, {"内存": "12GB"}),
    ("美妆", "面膜", "face mask", "初露 玻尿酸补水面膜 20片装", "初露", 89.0, 1500, {"肤质": "干皮", "规格": "20片"}),
    ("零食水果", "坚果", "nuts", "山野集 每日坚果混合装 750g", "山野集", 79.9, 2200, {"净含量": "750g"}),
    ("服饰", "T恤", "T-shirt", "棉间 重磅纯棉圆领短袖T恤 男女同款", "棉间", 69.0, 900, {"材质": "纯棉"}),
    ("小家电", "电饭煲", "rice cooker", "禾下 智能预约电饭煲 4L", "禾下", 259.0, 260, {"容量": "4L", "功率": "860W"}),
    ("玩具", "积木", "building blocks", "小匠 大颗粒城市积木 300粒", "小匠", 129.0, 410, {"适龄": "3岁以上"}),
    ("数码", "耳机", "headphones", "Nordlys Air2 主动降噪蓝牙耳机", "Nordlys", 399.0, 640, {"蓝牙": "5.3"}),
    ("美妆", "口红", "lipstick", "绯色 丝绒雾面口红 #07 枫叶红", "绯色", 119.0, 780, {"色号": "07"}),
    ("零食水果", "草莓", "strawberries", "丹东红颜草莓 净重3斤 产地直发", "岭上鲜", 99.0, 350, {"储存": "冷藏"}),
    ("服饰", "羽绒服", "down jacket", "北麓 轻薄羽绒服 连帽短款", "北麓", 459.0, 240, {"填充": "90%白鸭绒"}),
    ("小家电", "吹风机", "hair dryer", "轻屿 高速负离子吹风机", "轻屿", 299.0, 380, {"功率": "1600W", "颜色": "灰"}),
    ("玩具", "毛绒熊", "teddy bear", "Mossy 抱抱熊毛绒玩偶 60cm", "Mossy", 99.0, 520, {"高度": "60cm"}),
    ("数码", "充电宝", "power bank", "云雀 20000mAh 快充移动电源 自带线", "云雀", 149.0, 860, {"容量": "20000mAh"}),
    ("美妆", "精华", "serum", "初露 烟酰胺亮肤精华液 30ml", "初露", 199.0, 640, {"容量": "30ml"}),
    ("零食水果", "薯片", "crisps", "脆湾 海盐味手切薯片 12包", "脆湾", 45.9, 1800, {"口味": "海盐", "规格": "12包"}),
    ("服饰", "运动鞋", "sneakers", "Strider Lite 缓震透气运动鞋", "Strider", 329.0, 460, {"尺码": "36-45"}),
    ("小家电", "加湿器", "humidifier", "雾里 静音桌面加湿器 500ml", "雾里", 89.0, 700, {"容量": "500ml"}),
    ("玩具", "拼图", "jigsaw puzzle", "Starry Night 1000片 成人拼图", "Piecewise", 59.0, 610, {"片数": "1000"}),
    ("数码", "手表", "smart watch", "脉动 S3 运动智能手表 心率监测", "脉动", 599.0, 300, {"防水": "50米"}),
    ("美妆", "防晒霜", "sunscreen", "晴屿 清爽防晒霜 SPF50+ 50g", "晴屿", 79.0, 1300, {"防晒": "SPF50+"}),
    ("零食水果", "牛肉干", "beef jerky", "草原歌 手撕风干牛肉干 500g", "草原歌", 108.0, 770, {"口味": "原味"}),
    ("服饰", "牛仔裤", "jeans", "棉间 高腰直筒牛仔裤 女", "棉间", 159.0, 540, {"尺码": "25-32"}),
    ("小家电", "扫地机器人", "robot vacuum", "净屋 R10 扫拖一体机器人", "净屋", 1399.0, 150, {"续航": "150分钟"}),
    ("玩具", "遥控车", "RC car", "Dune Runner 四驱越野遥控车", "Dune", 189.0, 330, {"适龄": "6岁以上"}),
    ("数码", "键盘", "keyboard", "Keywood 87 三模机械键盘 茶轴", "Keywood", 269.0, 420, {"轴体": "茶轴"}),
    ("美妆", "洗面奶", "cleanser", "绯色 氨基酸温和洁面乳 120g", "绯色", 59.0, 1600, {"容量": "120g"}),
    ("零食水果", "车厘子", "cherries", "智利车厘子 JJ级 2斤 顺丰冷链", "岭上鲜", 138.0, 420, {"等级": "JJ"}),
    ("服饰", "双肩包", "backpack", "Pinecone 通勤防水双肩包 15.6寸", "Pinecone", 199.0, 580, {"容量": "22L"}),
    ("小家电", "破壁机", "blender", "禾下 静音破壁机 1.5L 榨汁豆浆", "禾下", 349.0, 210, {"容量": "1.5L"}),
    ("玩具", "滑板车", "kick scooter", "小匠 儿童三轮滑板车 可折叠", "小匠", 219.0, 290, {"适龄": "3-8岁"}),
]  # fmt: skip


LEAD_TIME_DAYS: Final = 1  # the simulated shop is supplied every night


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """One product; ``zh`` and ``en`` are the names customers use for it."""

    product_id: str
    title: str
    category: str
    brand: str
    price: float
    stock: int
    attributes: dict[str, Any]
    zh: str
    en: str

    def record(self, stock: int | None = None) -> dict[str, Any]:
        """The catalogue record, with ``stock`` in place of the usual stock."""
        return {
            "product_id": self.product_id,
            "title": self.title,
            "category": self.category,
            "brand": self.brand,
            "price": self.price,
            "stock": self.stock if stock is None else stock,
            "lead_time_days": LEAD_TIME_DAYS,
            "attributes": self.attributes,
            "image": f"https://img.example.com/{self.product_id}.jpg",
        }


def make_catalog(size: int) -> list[Product]:
    """``size`` products, ``p001`` first; categories take turns."""
    products = []
    for number in range(size):
        style, place = divmod(number, len(_SHELF))
        category, zh, en, title, brand, price, stock, attributes = _SHELF[place]
        if style:
            title = f"{title} {style + 1}号款"
        products.append(Product(f"p{number + 1:03d}", title, category, brand, price, stock, attributes, zh, en))
    return products
