"""How strange a text is: what the exported graph says, in which unit; a model without it calls nothing strange."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from serving.card import read_card
from serving.export import add_strangeness, export
from serving.forward import Forward
from serving.local import LocalScorer
from serving.tokenizer import TextTokenizer, padded
from stream.settings import Settings
from training import calibrate, metrics
from training.batches import load_tokenizer
from training.model import RadarModel

TOKENIZER = read_card(Settings().model_repo).tokenizer_file


def test_the_unit_is_the_distance_that_each_dev_set_exceeds_alike() -> None:
    draw = np.random.default_rng(0)
    stretched = draw.normal(size=(8, 8))

    def texts(count: int, off: float = 0.0) -> metrics.Floats:
        return (off + draw.normal(size=(count, 8)) @ stretched).astype(np.float32)

    near, far = texts(5_000), texts(200, off=2.0)
    middle, scale = calibrate.surroundings(texts(2_000), [near, far])
    beyond = [(calibrate.strangeness(group, middle, scale) > 1).mean() for group in (near, far)]
    assert np.mean(beyond) == pytest.approx(0.02, abs=0.003) and beyond[0] < beyond[1]
    assert (calibrate.strangeness(texts(50, off=30.0), middle, scale) > 1).all()


async def test_the_graph_says_what_the_embeddings_say(tmp_path: Path) -> None:
    folder = tmp_path / "demand" / "1"
    tokenizer = load_tokenizer(TOKENIZER)
    path = export(RadarModel.tiny(tokenizer.get_vocab_size()).eval(), TOKENIZER, folder, {"version": "test"})
    texts = ["物流慢", "a text about the price of this kettle", "x = 1"]
    tokens = TextTokenizer(read_card(tmp_path)).encode(texts)
    assert not Forward(path, 1)(*padded(tokens, 32))["strangeness"].any()

    draw = np.random.default_rng(0)
    middle, scale = (draw.normal(size=shape).astype(np.float32) for shape in ((32,), (32, 32)))
    states = metrics.onnx_embed(path, tokenizer)(texts)
    add_strangeness(path, middle, scale)
    with pytest.raises(ValueError, match="already"):
        add_strangeness(path, middle, scale)
    said = Forward(path, 1)(*padded(tokens, 32))
    assert said["strangeness"].shape == (3, 1)
    assert np.allclose(said["strangeness"][:, 0], calibrate.strangeness(states, middle, scale), rtol=1e-4)
    async with LocalScorer(tmp_path) as scorer:
        await scorer.check()
        scores = await scorer.score([*texts, " "])
    assert [score.strangeness for score in scores] == [*np.round(said["strangeness"][:, 0].astype(float), 3), 0.0]
