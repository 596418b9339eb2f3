"""The model in process: a text's scores do not depend on its neighbours, and the card says what the file says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from serving.card import read_card
from serving.decode import Outputs
from serving.errors import ModelMissing
from serving.forward import Forward
from serving.labels import EVIDENCE_LABELS
from serving.local import LocalScorer
from serving.tokenizer import TextTokenizer, padded
from stream.settings import Settings

REPO = Settings().model_repo
TEXTS = ["包装破损，快递太慢了！", "很好", "The size is too small 😀", "客服一直不回复，我要退款，再不处理就投诉！" * 3]


def test_neighbours_padding_and_threads_change_not_one_bit() -> None:
    card = read_card(REPO)
    tokens = TextTokenizer(card).encode(TEXTS)
    together = Outputs(**Forward(card.model_file, threads=3)(*padded(tokens, 128)))
    one_by_one = Forward(card.model_file, threads=1)
    for row, text in enumerate(tokens):
        alone = Outputs(**one_by_one(*padded([text], len(text))))
        for name in ("sentiment", "aspects", "demands"):
            assert np.array_equal(getattr(alone, name)[0], getattr(together, name)[row])
        assert np.array_equal(alone.evidence[0], together.evidence[row, : len(text)])
        assert not together.evidence[row, len(text) :].any()


async def test_local_scorer() -> None:
    async with LocalScorer(REPO) as scorer:
        await scorer.check()
        scores = await scorer.score([*TEXTS, ""])
        assert scores[:4] == [(await scorer.score([text]))[0] for text in TEXTS]
        assert scores[4].label == "neutral"
        for text, score in zip(TEXTS, scores, strict=False):
            assert -1 <= score.score <= 1
            for found in (*score.aspects, *score.demands):
                assert all(0 <= start < end <= len(text) for start, end in found.evidence)


def test_offsets_count_code_points() -> None:
    (tokens,) = TextTokenizer(read_card(REPO)).encode(["①好😀 ＡＢＣ"])
    assert len(tokens.ids) == len(tokens.offsets)
    assert tokens.offsets[0] == tokens.offsets[-1] == (0, 0)
    assert max(end for _, end in tokens.offsets) == 7


def test_long_texts_are_cut() -> None:
    card = read_card(REPO)
    (tokens,) = TextTokenizer(card).encode(["好坏大小" * 1000])
    assert len(tokens) == card.max_length


def test_card_of_a_model_file(tmp_path: Path) -> None:
    helper = pytest.importorskip("onnx.helper")
    onnx = pytest.importorskip("onnx")
    folder = tmp_path / "demand" / "12"
    folder.mkdir(parents=True)
    (tmp_path / "demand" / "2").mkdir()
    (folder / "tokenizer.json").write_text("{}")
    tensor = helper.make_tensor("w", onnx.TensorProto.FLOAT, [1000], [0.5] * 1000)
    model = helper.make_model(helper.make_graph([], "g", [], [], [tensor]))
    helper.set_model_props(model, {"other": "1", "radar": json.dumps({"version": "1.2", "thresholds": {"price": 0.3}})})
    onnx.save(model, folder / "model.onnx")
    card = read_card(tmp_path)
    assert (card.title, card.max_length) == ("demand/12@1.2", 128)
    assert card.thresholds == {**dict.fromkeys(EVIDENCE_LABELS, 0.5), "price": 0.3, "negative": 0.0}


@pytest.mark.parametrize("content", [b"\xff" * 40, b"version https://git-lfs", b"\x72\xff"])
def test_a_damaged_model_file_is_named(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "demand" / "1"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(ModelMissing, match=r"model\.onnx"):
        LocalScorer(tmp_path)


def test_no_model_at_all(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="RADAR_MODEL_REPO"):
        read_card(tmp_path)
