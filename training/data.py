"""Readers: every data set becomes rows of one shape, in which what a set does not say is marked as unknown.

The split is frozen by content: :func:`split_of` hashes the normalised text, so a text lands in the same split whichever
data set it comes from and however files are ordered. Sets with an evaluation file of their own are tested on it, and
:func:`without_leaks` removes from training whatever also occurs, exactly or nearly, among the texts held out.
"""

import ast
import csv
import hashlib
import io
import json
import os
import random
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from serving.labels import POLARITIES
from stream.preprocess.clean import read, tidy
from training import mapping
from training.mapping import ALL_ASPECTS, ALL_DEMANDS, Scheme

Split = Literal["train", "dev", "test"]
Span = tuple[int, int]

ROOT: Final = Path(__file__).resolve().parent.parent
UTTERANCES: Final = Path(__file__).parent / "utterances"

#: Sentences the model is demonstrated on. Nothing like them may be trained on.
DEMONSTRATION: Final = (
    "物流太慢了，包装也破了，客服不理人",
    "Shipping took forever, the box was crushed and support never answers",
)


#: Words that a text with a demand is likely to hold. A review without any of them is taken for one without demands.
CUES: Final = re.compile(
    r"[?？退换赔补催券吗呢嘛]|缺货|断货|有货|到货|没货|什么时候|何时|多久|建议|希望|要是|如果|应该|最好|能不能|可不可以"
    r"|可以吗|有没有|怎么|如何|请问|谁知道|适合|适用|兼容|支持|匹配|投诉|举报|12315|曝光|推荐|优惠|便宜|降价|打折|活动"
    r"|想买|要买|再买|还会|下单|回购|发货|快点|客服"
    r"|\b(?:refund|return\w*|replace\w*|exchange|money back|wish\w*|hope|should|would|could|please|recommend\w*"
    r"|suggest\w*|discount|cheaper|coupon|sale|buy|order|stock|compatible|works? with|fits?|complain\w*|report|when|how"
    r"|need\w*)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Row:
    """A cleaned text with what is known about it.

    ``aspects`` maps to a polarity, ``demands`` to a strength, ``spans`` to the evidence as character offsets into
    ``text`` (end exclusive). A label outside the ``known_*`` sets is masked: neither present nor absent.
    """

    text: str
    lang: str
    source: str
    sentiment: str | None = None
    aspects: Mapping[str, str] = field(default_factory=dict)
    known_aspects: frozenset[str] = frozenset()
    demands: Mapping[str, float] = field(default_factory=dict)
    known_demands: frozenset[str] = frozenset()
    spans: Mapping[str, tuple[Span, ...]] = field(default_factory=dict)
    known_spans: frozenset[str] = frozenset()


def clean(text: str) -> str:
    """The text as the stream feeds it to the model: NFKC, simplified characters, floods and white space shortened."""
    return tidy(read(text)).text


def clean_spans(text: str, spans: Iterable[Span]) -> tuple[str, tuple[Span, ...]]:
    """Clean a text and carry character offsets along."""
    traced = tidy(read(text))
    moved = []
    for span in spans:
        for step in traced.steps:
            span = step.forward(*span)
        if span[0] < span[1] <= len(traced.text):
            moved.append(span)
    return traced.text, tuple(moved)


def key(text: str) -> str:
    """What makes two texts the same: letters and digits only, in lower case."""
    return re.sub(r"[\W_]+", "", text.lower())


def split_of(text: str) -> Split:
    """The frozen rule: SHA-1 of :func:`key` modulo 100; below 85 train, below 92 dev, else test."""
    bucket = int(hashlib.sha1(key(text).encode()).hexdigest(), 16) % 100
    return "train" if bucket < 85 else "dev" if bucket < 92 else "test"


def data_folder() -> Path:
    """The data folder named by RADAR_DATA, by default ../shared/data."""
    folder = Path(os.environ.get("RADAR_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        raise SystemExit(
            f"No data sets in {folder}. Name their folder in RADAR_DATA, or run the trainer with --smoke, "
            "which needs only the texts in training/utterances."
        )
    return folder


# --- readers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quad:
    """One opinion in a public data set: its category there, polarity, and where its words stand, if anywhere."""

    category: str
    polarity: str
    spans: tuple[Span, ...]


def aspect_row(text: str, lang: str, source: str, quads: Iterable[Quad], scheme: Scheme) -> Row:
    """Quads to a row: doubtful and contradicting categories are masked, evidence without words is unknown."""
    aspects: dict[str, str] = {}
    spans: dict[str, list[Span]] = {}
    masked: set[str] = set()
    wordless: set[str] = set()
    for quad in quads:
        masked.update(scheme.doubted(quad.category))
        if (aspect := scheme.aspect(quad.category)) is None:
            continue
        if aspects.setdefault(aspect, quad.polarity) != quad.polarity:
            masked.add(aspect)
        spans.setdefault(aspect, []).extend(quad.spans)
        if not quad.spans:
            wordless.add(aspect)
    known = (scheme.covered | aspects.keys()) - masked
    flat = [(name, span) for name in sorted(spans) for span in spans[name]]
    cleaned, moved = clean_spans(text, (span for _, span in flat))
    placed: dict[str, tuple[Span, ...]] = {}
    if len(moved) == len(flat):
        for (name, _), span in zip(flat, moved, strict=True):
            if name in known:
                placed[name] = (*placed.get(name, ()), span)
    known_spans = known - wordless if len(moved) == len(flat) else frozenset[str]()
    return Row(
        cleaned, lang, source,
        aspects={name: polarity for name, polarity in aspects.items() if name in known},
        known_aspects=frozenset(known), spans=placed, known_spans=frozenset(known_spans),
    )  # fmt: skip


def utterances(folder: Path = UTTERANCES) -> Iterator[Row]:
    """Our own reviews and chats, labelled exhaustively: everything not named in a row is absent."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                yield _utterance(json.loads(line))


def _utterance(item: Mapping[str, Any]) -> Row:
    text = clean(item["text"])
    aspects: dict[str, str] = {}
    demands: dict[str, float] = {}
    spans: dict[str, tuple[Span, ...]] = {}
    wordless: set[str] = set()
    for kind, labels in (("aspect", item["aspects"]), ("demand", item["demands"])):
        for label in labels:
            name = label[kind]
            found = [find(text, clean(words)) for words in label["evidence"]]
            spans[name] = (*spans.get(name, ()), *(span for span in found if span))
            if not found or None in found:
                wordless.add(name)
            if kind == "demand":
                demands[name] = max(demands.get(name, 0.0), float(label["strength"]))
            else:
                aspects[name] = label["sentiment"]
    return Row(
        text, item["lang"], "utterances", item["sentiment"], aspects, ALL_ASPECTS, demands, ALL_DEMANDS, spans,
        (ALL_ASPECTS | ALL_DEMANDS) - wordless,
    )  # fmt: skip


def find(text: str, words: str) -> Span | None:
    """Where words stand in a text; None if nowhere or in more than one place."""
    start = text.find(words) if words else -1
    return (start, start + len(words)) if start >= 0 and text.find(words, start + 1) < 0 else None


def online_shopping(data: Path) -> Iterator[Row]:
    """Chinese reviews of ten product categories; sentiment only. ``source`` carries the category."""
    path = data / "zh_review_sentiment" / "online_shopping_10_cats.zip"
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as raw:
        for item in csv.DictReader(io.TextIOWrapper(raw, "utf-8-sig")):
            if text := clean(item["review"] or ""):
                sentiment = "positive" if item["label"] == "1" else "negative"
                yield Row(text, "zh", f"online_shopping/{item['cat']}", sentiment)


def amazon(data: Path, part: Literal["train", "test"]) -> Iterator[Row]:
    """English Amazon reviews; sentiment only."""
    for line in (data / "amazon_polarity10k" / f"amazon.{part}.dat").read_text(encoding="utf-8").splitlines():
        text, _, label = line.rpartition("$LABEL$")
        if cleaned := clean(text):
            yield Row(cleaned, "en", "amazon", "positive" if label.strip() == "1" else "negative")


def eprstmt(data: Path) -> Iterator[Row]:
    """The 320 labelled reviews of EPRSTMT (train and dev); evaluation only."""
    for name in ("train_few_all.json", "dev_few_all.json"):
        for line in (data / "eprstmt_fewclue" / name).read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            yield Row(clean(item["sentence"]), "zh", "eprstmt", item["label"].lower())


def zhijiang(data: Path) -> Iterator[Row]:
    """Chinese cosmetics reviews with term and opinion offsets."""
    folder = data / "zhijiang_makeup"
    quads: dict[str, list[Quad]] = {}
    with (folder / "Train_labels.csv").open(encoding="utf-8-sig", newline="") as file:
        for item in csv.DictReader(file):
            places = ((item["A_start"], item["A_end"]), (item["O_start"], item["O_end"]))
            spans = tuple((int(start), int(end)) for start, end in places if start.strip())
            polarity = {"负面": "negative", "中性": "neutral", "正面": "positive"}[item["Polarities"]]
            quads.setdefault(item["id"], []).append(Quad(item["Categories"], polarity, spans))
    with (folder / "Train_reviews.csv").open(encoding="utf-8-sig", newline="") as file:
        for item in csv.DictReader(file):
            yield aspect_row(item["Reviews"], "zh", "zhijiang", quads.get(item["id"], []), mapping.ZHIJIANG)


def asqp(data: Path, lang: Literal["zh", "en"], part: Literal["train", "dev"]) -> Iterator[Row]:
    """Chinese food and English phone reviews. Rows without a quad are left out: many of them do hold opinions."""
    name, scheme = ("zh-FoodBeverage", mapping.ASQP_ZH) if lang == "zh" else ("en-Phone", mapping.ASQP_EN)
    for line in (data / "asqp_datastory" / name / f"{part}.txt").read_text(encoding="utf-8").splitlines():
        text, _, labels = line.rpartition("####")
        quads = [
            Quad(category, POLARITIES[int(polarity)], tuple(_places(term, opinion)))
            for category, term, opinion, polarity in ast.literal_eval(labels)
        ]
        if quads:
            yield aspect_row(text, lang, f"asqp_{lang}", quads, scheme)


def _places(*places: str) -> Iterator[Span]:
    for place in places:
        start, end = map(int, place.split(","))
        if start >= 0:
            yield start, end


def acos_laptop(data: Path) -> Iterator[Row]:
    """English laptop reviews; spans count words."""
    for line in (data / "acos_laptop_rest" / "laptop_quad_train.tsv").read_text(encoding="utf-8").splitlines():
        text, *labels = line.split("\t")
        words = [match.span() for match in re.finditer(r"\S+", text)]
        quads = []
        for label in labels:
            term, category, polarity, opinion = label.split(" ")
            spans = tuple((words[first][0], words[last - 1][1]) for first, last in _places(term, opinion))
            quads.append(Quad(mapping.laptop_category(category), POLARITIES[int(polarity)], spans))
        yield aspect_row(text, "en", "acos_laptop", quads, mapping.LAPTOP)


def dimabsa_laptop(data: Path) -> Iterator[Row]:
    """Taiwanese laptop forum posts. The English half re-uses ACOS and is not read."""
    polarities = {"NEG": "negative", "NEU": "neutral", "POS": "positive"}
    path = data / "dimabsa2026" / "zho_laptop_train_alltasks.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        quads = []
        for quad in item["Quadruplet"]:
            found = [find(item["Text"], words) for words in (quad["Aspect"], quad["Opinion"]) if words != "NULL"]
            spans = () if None in found else tuple(span for span in found if span)
            quads.append(Quad(mapping.laptop_category(quad["Category"]), polarities[quad["Polarity"]], spans))
        yield aspect_row(item["Text"], "zh", "dimabsa_laptop", quads, mapping.LAPTOP)


def oats(data: Path) -> Iterator[Row]:
    """English fine-food reviews, for prices and deliveries; "conflict" is a contradiction and masks its aspect."""
    for line in (data / "oats_amazon_ff" / "quads_train.txt").read_text(encoding="utf-8").splitlines():
        text, _, labels = line.rpartition("####")
        quads = []
        for term, category, polarity, opinion in ast.literal_eval(labels):
            found = [find(text, words) for words in (term, opinion) if words != "NULL"]
            spans = () if None in found else tuple(span for span in found if span)
            quads += [
                Quad(category, one, spans)
                for one in (("negative", "positive") if polarity == "conflict" else (polarity,))
            ]
        yield aspect_row(text, "en", "oats", quads, mapping.OATS)


def bitext(data: Path) -> Iterator[Row]:
    """English customer-service requests made from templates; demands only. ``source`` carries the intent."""
    path = data / "bitext_customer_service" / "Bitext_Sample_Customer_Service_Training_Dataset.csv"
    with path.open(encoding="utf-8", newline="") as file:
        for item in csv.DictReader(file):
            if intent := mapping.BITEXT.get(item["intent"]):
                known = ALL_DEMANDS - set(intent.doubt)
                yield Row(
                    clean(item["utterance"]), "en", f"bitext/{item['intent']}",
                    demands=intent.demands, known_demands=known,
                )  # fmt: skip


def clinc(data: Path) -> Iterator[Row]:
    """English requests that have nothing to do with a shop: no demand at all."""
    sets = json.loads((data / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    for text, intent in sets["train"] + sets["oos_train"]:
        if intent == "oos" or intent in mapping.CLINC_FOREIGN:
            yield Row(clean(text), "en", "clinc", known_demands=ALL_DEMANDS)


def hint3(data: Path) -> Iterator[Row]:
    """Real queries to two shops' chatbots, one intent each; evaluation only."""
    for path in sorted((data / "hint3" / "v2").glob("*.csv")):
        if path.name.startswith(("curekart", "sofmattress")):
            with path.open(encoding="utf-8", newline="") as file:
                for item in csv.DictReader(file):
                    text, intent = clean(item["sentence"]), mapping.HINT3.get(item["label"], mapping.Intent({}))
                    if text and item["label"] != mapping.HINT3_UNPLACED:
                        known = mapping.HINT3_DEMANDS - set(intent.doubt)
                        yield Row(text, "en", "hint3", demands=intent.demands, known_demands=known)


#: Sets whose own "test" hash split is evaluated on; the others have an evaluation file or none at all.
SPLIT_BY_HASH: Final = ("utterances", "online_shopping", "zhijiang")


# --- selection ------------------------------------------------------------------------------------------------------


def grams(text: str) -> frozenset[str]:
    """Character trigrams of :func:`key`."""
    letters = key(text)
    return frozenset(letters[i : i + 3] for i in range(max(1, len(letters) - 2)))


def without_leaks(rows: Iterable[Row], held_out: Iterable[str], nearness: float = 0.6) -> tuple[list[Row], int]:
    """Rows whose text is neither equal nor near (Jaccard of trigrams) to a held-out one, and how many were dropped."""
    exact = {key(text) for text in held_out}
    near = [grams(text) for text in (*held_out, *DEMONSTRATION)]
    postings: dict[str, list[int]] = {}
    for i, gram_set in enumerate(near):
        for gram in gram_set:
            postings.setdefault(gram, []).append(i)
    kept, dropped = [], 0
    for row in rows:
        if key(row.text) in exact or _is_near(grams(row.text), near, postings, nearness):
            dropped += 1
        else:
            kept.append(row)
    return kept, dropped


def _is_near(own: frozenset[str], near: list[frozenset[str]], postings: Mapping[str, list[int]], limit: float) -> bool:
    shared: dict[int, int] = {}
    for gram in own:
        for i in postings.get(gram, ()):
            shared[i] = shared.get(i, 0) + 1
    return any(count / (len(own) + len(near[i]) - count) >= limit for i, count in shared.items())


def unique(rows: Iterable[Row]) -> list[Row]:
    """The first row of each text."""
    return list({key(row.text): row for row in reversed(list(rows))}.values())[::-1]


def part(rows: Iterable[Row], *splits: Split) -> list[Row]:
    """The rows whose text hashes into one of the splits."""
    return [row for row in rows if split_of(row.text) in splits]


def spread(rows: Iterable[Row], count: int, group: Callable[[Row], object], seed: int = 0) -> list[Row]:
    """At most ``count`` rows, taken in turn from the groups, each group shuffled."""
    groups: dict[object, list[Row]] = {}
    for row in rows:
        groups.setdefault(group(row), []).append(row)
    shuffler = random.Random(seed)
    for members in groups.values():
        shuffler.shuffle(members)
    taken: list[Row] = []
    depth = 0
    while len(taken) < count and any(len(members) > depth for members in groups.values()):
        taken += [members[depth] for members in groups.values() if len(members) > depth]
        depth += 1
    return taken[:count]


def join(one: Row, two: Row) -> Row:
    """Two short texts as one, with the union of their labels; what they disagree on or one does not know is masked."""
    glue = "," if one.lang == "zh" else ". "
    head = one.text.rstrip("。.!, ")
    shift = len(head) + len(glue)
    both_aspects = one.aspects.keys() & two.aspects.keys()
    clash = {name for name in both_aspects if one.aspects[name] != two.aspects[name]}
    aspects = {name: value for name, value in {**one.aspects, **two.aspects}.items() if name not in clash}
    demands = {
        name: max(one.demands.get(name, 0.0), two.demands.get(name, 0.0)) for name in (*one.demands, *two.demands)
    }
    spans = {
        name: tuple((start, min(end, len(head))) for start, end in one.spans.get(name, ()) if start < len(head))
        + tuple((start + shift, end + shift) for start, end in two.spans.get(name, ()))
        for name in (*one.spans, *two.spans)
        if name not in clash
    }
    known_aspects = ((one.known_aspects & two.known_aspects) | aspects.keys()) - clash
    known_demands = (one.known_demands & two.known_demands) | demands.keys()
    return replace(
        one, text=head + glue + two.text, source="joined",
        sentiment=one.sentiment if one.sentiment == two.sentiment else None,
        aspects=aspects, known_aspects=frozenset(known_aspects),
        demands=demands, known_demands=frozenset(known_demands),
        spans=spans, known_spans=(one.known_spans & two.known_spans) - clash,
    )  # fmt: skip


def joined(rows: list[Row], count: int, seed: int = 0, longest: int = 60) -> list[Row]:
    """``count`` texts made of two or three short rows of one language, so that short texts with many labels occur."""
    chooser = random.Random(seed)
    pools = {
        lang: [row for row in rows if row.lang == lang and len(row.text) <= (longest if lang == "zh" else 2 * longest)]
        for lang in ("zh", "en")
    }
    made = []
    for i in range(count):
        pool = pools["zh" if i % 2 else "en"]
        pieces = chooser.sample(pool, 3 if chooser.random() < 0.3 else 2)
        row = pieces[0]
        for piece in pieces[1:]:
            row = join(row, piece)
        made.append(row)
    return made


@dataclass(frozen=True)
class Mixture:
    """What one run trains on, and what it must not have seen."""

    train: list[Row]
    dev: list[Row]
    tests: Mapping[str, list[Row]]
    dropped: int


def tests(data: Path | None) -> dict[str, list[Row]]:
    """The held-out sets by name; without public data only our own utterances."""
    ours = {"utterances": part(unique(utterances()), "test")}
    if data is None:
        return ours
    return ours | {
        "online_shopping": spread(part(unique(online_shopping(data)), "test"), 2000, lambda row: row.source),
        "eprstmt": unique(eprstmt(data)),
        "amazon": unique(amazon(data, "test")),
        "zhijiang": part(unique(zhijiang(data)), "test"),
        "asqp_zh": unique(asqp(data, "zh", "dev")),
        "asqp_en": unique(asqp(data, "en", "dev")),
        "hint3": unique(hint3(data)),
    }


def mixture(data: Path | None) -> Mixture:
    """The training mixture with its dev rows (for calibration and thresholds) and tests."""
    held_out = tests(data)
    texts = [row.text for rows in held_out.values() for row in rows]
    pool = {"utterances": unique(utterances())}
    if data is not None:
        reviews = unique(online_shopping(data))
        shopping = [row for row in reviews if len(row.text) <= 100]
        long = [row for row in reviews if 100 < len(row.text) <= 250]
        pool |= {
            "online_shopping": spread(shopping, 5000, lambda row: (row.source, row.sentiment))
            + spread(long, 800, lambda row: (row.source, row.sentiment)),
            "amazon": [row for row in unique(amazon(data, "train")) if len(row.text) <= 350][:2500],
            "zhijiang": unique(zhijiang(data)),
            "asqp_zh": spread(_shorter(unique(asqp(data, "zh", "train")), 120), 4000, _polarities),
            "asqp_en": spread(_shorter(unique(asqp(data, "en", "train")), 350), 3500, _polarities),
            "acos_laptop": unique(acos_laptop(data))[:1500],
            "dimabsa_laptop": unique(dimabsa_laptop(data))[:1500],
            "oats": spread(unique(oats(data)), 1200, lambda row: tuple(row.aspects.items())),
            "bitext": spread(unique(bitext(data)), 1200, lambda row: row.source),
            "clinc": spread(unique(clinc(data)), 400, lambda row: row.source),
        }
    train: dict[str, list[Row]] = {}
    dev: list[Row] = []
    dropped = 0
    for name, rows in pool.items():
        kept, lost = without_leaks(rows, texts)
        train[name] = part(kept, "train") if name in SPLIT_BY_HASH else part(kept, "train", "test")
        dev += demand_free(part(kept, "dev"))
        dropped += lost
    ours = train.pop("utterances")
    public = demand_free(row for rows in train.values() for row in rows)
    short = ours + demand_free(row for name in ("zhijiang", "asqp_zh", "asqp_en") for row in train.get(name, []))
    pairs = joined(ours + ours + short, min(4000, 2 * len(ours)))
    return Mixture(ours * 4 + pairs + public, dev, held_out, dropped)


def demand_free(rows: Iterable[Row]) -> list[Row]:
    """Weak labels: a review whose set says nothing of demands, and that holds no cue of one, has none.

    Without them the demand heads see short chats only, and find several demands in any long review.
    """
    return [
        row if row.known_demands or CUES.search(row.text) else replace(row, known_demands=ALL_DEMANDS) for row in rows
    ]


def _shorter(rows: Iterable[Row], characters: int) -> list[Row]:
    return [row for row in rows if len(row.text) <= characters]


def _polarities(row: Row) -> tuple[tuple[str, str], ...]:
    """Groups rows by their labels, so that rare combinations come first: negative logistics, packaging, service."""
    return tuple(sorted(row.aspects.items()))
