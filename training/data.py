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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from serving.labels import POLARITIES
from stream.preprocess.clean import read, tidy
from training import mapping
from training.mapping import ALL_ASPECTS, ALL_DEMANDS, Scheme

Split = Literal["train", "dev", "test"]
Span = tuple[int, int]

ROOT: Final = Path(__file__).resolve().parent.parent
UTTERANCES: Final = Path(__file__).parent / "utterances"
#: Texts by writers who knew no label, in the form of the utterances; a test, never trained on.
OUTSIDERS: Final = Path(__file__).parent / "outsiders"
ANNOTATIONS: Final = Path(__file__).parent / "annotations"

#: Sentences the model is demonstrated on. Nothing like them may be trained on.
DEMONSTRATION: Final = (
    "物流太慢了，包装也破了，客服不理人",
    "Shipping took forever, the box was crushed and support never answers",
)


#: Words that a text with a demand is likely to hold. A review without any of them is taken for one without demands.
CUES: Final = re.compile(
    r"[?？退换赔补催券吗呢嘛]|缺货|断货|有货|到货|没货|什么时候|何时|多久|建议|希望|要是|如果|应该|最好|能不能|可不可以"
    r"|可以吗|有没有|怎么|如何|请问|谁知道|适合|适用|兼容|支持|匹配|投诉|举报|12315|曝光|推荐|优惠|便宜|降价|打折|活动"
    r"|想买|要买|再买|还会|下单|回购|发货|快点|客服|打算|准备|没收|没有收|没送|还没|未收|就好了|完美了|315|维权|帮忙"
    r"|\b(?:refund|return\w*|replace\w*|exchange|money back|wish\w*|hope|should|would|could|please|recommend\w*"
    r"|suggest\w*|discount|cheaper|coupon|sale|buy|order|stock|compatible|works? with|fits?|complain\w*|report|when|how"
    r"|need\w*)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Row:
    """A cleaned text with what is known about it.

    ``aspects`` maps to a polarity, ``demands`` to a strength, ``spans`` to the evidence as character offsets into
    ``text`` (end exclusive). A label outside the ``known_*`` sets is masked: neither present nor absent. ``plain`` is
    the text of which this one is another wording, with the same meaning.
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
    plain: str | None = None


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
    bucket = int(_digest(text), 16) % 100
    return "train" if bucket < 85 else "dev" if bucket < 92 else "test"


def identity(text: str) -> str:
    """The name of a text that may not be written down here: the first 16 hex digits of SHA-1 of :func:`key`."""
    return _digest(text)[:16]


def _digest(text: str) -> str:
    return hashlib.sha1(key(text).encode()).hexdigest()


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
    """Reviews and chats written for this project, labelled exhaustively: everything neither named in a row nor "masked"
    is absent. The source names the files they stand in: those of ``utterances/zh_more.jsonl`` are "utterances/more"."""
    for path in sorted(folder.glob("*.jsonl")):
        source = "/".join([folder.name, *path.stem.split("_")[1:]])
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                yield _utterance(json.loads(line), source)


def _utterance(item: Mapping[str, Any], source: str) -> Row:
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
    masked = set(item.get("masked", ()))
    known = (ALL_ASPECTS | ALL_DEMANDS) - wordless - masked
    return Row(
        text, item["lang"], source, item["sentiment"],
        aspects, ALL_ASPECTS - masked, demands, ALL_DEMANDS - masked, spans, known,
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


def waimai(data: Path) -> Iterator[Row]:
    """Chinese reviews of takeaway meals; sentiment only."""
    with (data / "zh_review_sentiment" / "waimai_10k.csv").open(encoding="utf-8", newline="") as file:
        for item in csv.DictReader(file):
            if text := clean(item["review"]):
                yield Row(text, "zh", "waimai", "positive" if item["label"] == "1" else "negative")


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


def diaasq(data: Path) -> Iterator[Row]:
    """Chinese forum dialogues about mobile phones, turn by turn. Their labels name products, not our aspects, and are
    not read: the texts serve annotation."""
    for dialogue in json.loads((data / "diaasq" / "zh" / "train.json").read_text(encoding="utf-8")):
        for turn in dialogue["sentences"]:
            if text := clean(re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])", "", turn)):
                yield Row(text, "zh", "diaasq")


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


def bitext(data: Path, part: Literal["Training", "Testing"] = "Training") -> Iterator[Row]:
    """English customer-service requests made from templates; demands only. ``source`` carries the intent."""
    path = data / "bitext_customer_service" / f"Bitext_Sample_Customer_Service_{part}_Dataset.csv"
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


def intents(data: Path, shop: str, part: Literal["train", "test"]) -> list[tuple[str, str]]:
    """HINT3's own labels of one shop: (text, intent) pairs, for heads learnt from few examples."""
    with (data / "hint3" / "v2" / f"{shop}_{part}.csv").open(encoding="utf-8", newline="") as file:
        found = [(clean(item["sentence"]), item["label"]) for item in csv.DictReader(file)]
    return [(text, label) for text, label in found if text]


def suggestions(data: Path) -> Iterator[Row]:
    """SemEval-2019 task 9 A, evaluation part: what users of a software forum suggest, as feature requests. Its licence
    forbids training a model that is shipped; evaluation only."""
    path = data / "semeval2019_task9" / "SubtaskA_EvaluationData_labeled.csv"
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for _, text, label in csv.reader(file):
            demands = {"feature_request": 0.5} if label.strip() == "1" else {}
            yield Row(clean(text), "en", "suggestions", demands=demands, known_demands=frozenset({"feature_request"}))


#: Most dev rows of one set: enough to choose a threshold, few enough to read in a minute.
DEV_ROWS: Final = 1000

#: The sets whose texts may be annotated, with all their files.
ANNOTATED_SETS: Final[Mapping[str, Callable[[Path], Iterable[Row]]]] = {
    "online_shopping": online_shopping,
    "waimai": waimai,
    "amazon": lambda data: (*amazon(data, "train"), *amazon(data, "test")),
    "eprstmt": eprstmt,
    "zhijiang": zhijiang,
    "asqp_zh": lambda data: (*asqp(data, "zh", "train"), *asqp(data, "zh", "dev")),
    "asqp_en": lambda data: (*asqp(data, "en", "train"), *asqp(data, "en", "dev")),
    "acos_laptop": acos_laptop,
    "dimabsa_laptop": dimabsa_laptop,
    "diaasq": diaasq,
    "oats": oats,
}
#: Sets whose rows with a "test" hash are not trained on. The others have an evaluation file or none at all. Of waimai
#: those that were not annotated yet were in the first 63,000 rows of version 6, with their sentiment.
SPLIT_BY_HASH: Final = ("utterances", "online_shopping", "waimai", "zhijiang", "diaasq")


def annotated(data: Path, folder: Path = ANNOTATIONS) -> list[Row]:
    """Real texts of the public sets with our labels: all demands but those masked, and where a line has "aspects" all
    of these too, in place of the set's.

    The texts are not ours to publish, so a line names its text by set and :func:`identity`. A ValueError names a line
    whose text is not there. Evidence is known where a label is absent, or where the set gives it for the same opinion.
    """
    lines = [
        (f"{path.name}, line {number}", json.loads(line))
        for path in sorted(folder.glob("*.jsonl"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    ]
    readers = {name: ANNOTATED_SETS[name] for _, item in lines if (name := item["set"]) in ANNOTATED_SETS}
    texts = {(name, identity(row.text)): row for name, read in readers.items() for row in unique(read(data))}
    if lost := [place for place, item in lines if (item["set"], item["key"]) not in texts]:
        raise ValueError(f"No text for the labels in {'; '.join(lost[:5])}: check their set and key, and {data}.")
    return [_annotated(texts[item["set"], item["key"]], item) for _, item in lines]


def _annotated(row: Row, item: Mapping[str, Any]) -> Row:
    masked, demands, aspects = set(item.get("masked", ())), item["demands"], item.get("aspects", row.aspects)
    known_demands = ALL_DEMANDS - masked
    known_aspects = (ALL_ASPECTS if "aspects" in item else row.known_aspects) - masked
    told = {name for name in row.known_spans if name in aspects and row.aspects.get(name) == aspects[name]}
    absent = (known_aspects | known_demands) - aspects.keys() - demands.keys()
    return replace(
        row,
        source=f"annotated/{row.source}",
        sentiment=item.get("sentiment", row.sentiment),
        aspects=aspects,
        known_aspects=known_aspects,
        demands=demands,
        known_demands=known_demands,
        spans={name: row.spans[name] for name in told if name in row.spans},
        known_spans=absent | told,
    )


# --- selection ------------------------------------------------------------------------------------------------------


def grams(text: str) -> frozenset[str]:
    """Character trigrams of :func:`key`."""
    letters = key(text)
    return frozenset(letters[i : i + 3] for i in range(max(1, len(letters) - 2)))


def without_leaks(rows: Iterable[Row], held_out: Iterable[str], nearness: float = 0.6) -> tuple[list[Row], int]:
    """Rows whose text is neither equal nor near (Jaccard of trigrams) to a held-out one, and how many were dropped."""
    rows, held_out = list(rows), list(held_out)
    exact = {key(text) for text in held_out}
    near = nearest([row.text for row in rows], (*held_out, *DEMONSTRATION))
    kept = [row for row, found in zip(rows, near, strict=True) if key(row.text) not in exact and found < nearness]
    return kept, len(rows) - len(kept)


def nearest(texts: Sequence[str], others: Sequence[str]) -> npt.NDArray[np.float64]:
    """[texts]: the Jaccard similarity of each text's trigrams to those of the likest of ``others``."""
    found = np.zeros(len(texts))
    for ours, _, likeness in likenesses(texts, others):
        np.maximum.at(found, ours, likeness)
    return found


def likenesses(texts: Sequence[str], others: Sequence[str], chunk: int = 500) -> Iterator[tuple[Any, Any, Any]]:
    """Every pair that shares a trigram, chunk by chunk of ``texts``: arrays of places in ``texts`` and in ``others``
    and of the Jaccard similarity of their trigrams."""
    columns: dict[str, int] = {}
    ours, theirs = (_incidence(list(map(grams, part)), columns) for part in (texts, others))
    ours.resize(ours.shape[0], len(columns))
    size = np.asarray(theirs.sum(axis=1)).ravel()
    for start in range(0, len(texts), chunk):
        shared = (ours[start : start + chunk] @ theirs.T).tocoo()
        own = np.asarray(ours[start : start + chunk].sum(axis=1)).ravel()
        yield start + shared.row, shared.col, shared.data / (own[shared.row] + size[shared.col] - shared.data)


def _incidence(gram_sets: Sequence[frozenset[str]], columns: dict[str, int]) -> Any:
    """Sparse [texts, grams] of ones; ``columns`` numbers the grams and grows."""
    indices = [columns.setdefault(gram, len(columns)) for gram_set in gram_sets for gram in sorted(gram_set)]
    starts = np.cumsum([0, *map(len, gram_sets)])
    return csr_matrix((np.ones(len(indices), np.float32), indices, starts), shape=(len(gram_sets), len(columns)))


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
    """What one run trains on, set by set, and what it must not have seen."""

    sets: Mapping[str, list[Row]]
    dev: list[Row]
    tests: Mapping[str, list[Row]]
    dropped: int

    @property
    def train(self) -> list[Row]:
        """Every training row once."""
        return [row for rows in self.sets.values() for row in rows]

    def one_pass(self, shares: Mapping[str, int], number: int) -> list[Row]:
        """Pass ``number`` over the sets: ``shares[name]`` rows of each, none again before all of its set were seen.

        A name such as "utterances/more" stands for the rows of that source, which so come more often than the others.
        """
        return [row for name, count in shares.items() for row in _turn(self.named(name), count, number, name)]

    def names(self) -> list[str]:
        """What :meth:`named` knows."""
        return sorted({*self.sets, *(row.source for row in self.sets.get("utterances", []))})

    def named(self, name: str) -> list[Row]:
        """The training rows of a set, or those of one source in a set; none for an unknown name."""
        if name in self.sets:
            return self.sets[name]
        return [row for row in self.sets.get(name.split("/")[0], []) if row.source == name]


def _turn(rows: list[Row], count: int, number: int, seed: str) -> Iterator[Row]:
    """Rows ``number * count`` to ``(number + 1) * count`` of the set repeated for ever, shuffled anew each time."""
    orders: dict[int, list[Row]] = {}
    for place in range(number * count, (number + 1) * count) if rows else ():
        round_, within = divmod(place, len(rows))
        if round_ not in orders:
            orders[round_] = random.Random(f"{seed} {round_}").sample(rows, len(rows))
        yield orders[round_][within]


def tests(data: Path | None) -> dict[str, list[Row]]:
    """The held-out sets by name; without public data only those written for this project."""
    ours = {"utterances": part(unique(utterances()), "test"), "outsiders": unique(utterances(OUTSIDERS))}
    if data is None:
        return ours
    found = ours | {
        "online_shopping": part(unique(online_shopping(data)), "test"),
        "eprstmt": unique(eprstmt(data)),
        "amazon": unique(amazon(data, "test")),
        "zhijiang": part(unique(zhijiang(data)), "test"),
        "asqp_zh": unique(asqp(data, "zh", "dev")),
        "asqp_en": unique(asqp(data, "en", "dev")),
        "hint3": unique(hint3(data)),
        "bitext": without_leaks(unique(bitext(data, "Testing")), [row.text for row in _bitext_part(data)])[0],
        "suggestions": unique(suggestions(data)),
    }
    seen = {key(row.text) for rows in found.values() for row in rows}
    real = [row for row in annotated(data) if key(row.text) in seen or _held_out(row)]
    return found | {f"annotated_{lang}": [row for row in real if row.lang == lang] for lang in ("zh", "en")}


def _held_out(row: Row) -> bool:
    """Of an annotated row: whether its set, too, held it out from the first."""
    return split_of(row.text) == "test" and row.source.split("/")[1] in SPLIT_BY_HASH


def mixture(data: Path | None) -> Mixture:
    """The training sets with their dev rows (for calibration and thresholds) and tests."""
    held_out = tests(data)
    texts = [row.text for rows in held_out.values() for row in rows]
    pool = {"utterances": unique(utterances())}
    if data is not None:
        real = annotated(data)
        pool |= {
            "annotated": real,
            "online_shopping": _shorter(unique(online_shopping(data)), 250),
            "waimai": unique(waimai(data)),
            "amazon": _shorter(unique(amazon(data, "train")), 800),
            "zhijiang": unique(zhijiang(data)),
            "asqp_zh": _shorter(unique(asqp(data, "zh", "train")), 160),
            "asqp_en": _shorter(unique(asqp(data, "en", "train")), 450),
            "acos_laptop": unique(acos_laptop(data)),
            "dimabsa_laptop": unique(dimabsa_laptop(data)),
            "oats": unique(oats(data)),
            "bitext": _bitext_part(data),
            "clinc": spread(unique(clinc(data)), 1000, lambda row: row.source),
        }
        taken = {key(row.text) for row in real}
        pool |= {
            name: [row for row in pool[name] if key(row.text) not in taken] for name in ANNOTATED_SETS.keys() & pool
        }
    sets: dict[str, list[Row]] = {}
    dev: list[Row] = []
    dropped = 0
    for name, rows in pool.items():
        kept, lost = without_leaks(rows, texts)  # of annotated rows so all that are a test
        sets[name] = part(kept, "train") if name in SPLIT_BY_HASH else part(kept, "train", "test")
        dev += spread(part(kept, "dev"), DEV_ROWS, lambda row: (row.source, row.sentiment))
        dropped += lost
    sets = {name: demand_free(rows) for name, rows in sets.items()}
    short = [row for name in ("utterances", "zhijiang", "asqp_zh", "asqp_en") for row in sets.get(name, [])]
    sets["joined"] = joined(sets["utterances"] * 2 + short, 3 * len(sets["utterances"]))
    return Mixture(sets, demand_free(dev), held_out, dropped)


def _bitext_part(data: Path) -> list[Row]:
    """What is trained on of Bitext. Its templates fill both files: the test leaves out what is near to this."""
    return spread(unique(bitext(data)), 2000, lambda row: row.source)


def demand_free(rows: Iterable[Row]) -> list[Row]:
    """Weak labels: a review whose set says nothing of demands, and that holds no cue of one, has none.

    Without them the demand heads see short chats only, and find several demands in any long review.
    """
    return [
        row if row.known_demands or CUES.search(row.text) else replace(row, known_demands=ALL_DEMANDS) for row in rows
    ]


def _shorter(rows: Iterable[Row], characters: int) -> list[Row]:
    return [row for row in rows if len(row.text) <= characters]
