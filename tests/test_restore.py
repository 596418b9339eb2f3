"""Weights come back out of an exported model as they went in but for int8 rounding, and training goes on from them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from serving.export import add_strangeness, export, export_half
from training import data, train
from training.batches import load_tokenizer
from training.model import RadarModel
from training.restore import restored
from training.train import TOKENIZER

IDS = torch.tensor([[0, 20, 30, 500, 9_000, 2]])
MASK = torch.ones_like(IDS)
HIDDEN = 64
TYPES = "encoder.embeddings.token_type_embeddings.weight"
PLACES = "encoder.embeddings.position_embeddings.weight"


def tiny(hidden: int = HIDDEN) -> RadarModel:
    return RadarModel.tiny(load_tokenizer(TOKENIZER).get_vocab_size(), hidden).eval()


@pytest.fixture(scope="module")
def model() -> RadarModel:
    """No two of its tensors are alike, and one channel of its layers is an outlier that is smoothed."""
    torch.manual_seed(0)
    made = tiny()
    with torch.no_grad():
        for tensor in made.parameters():
            tensor.copy_(torch.randn_like(tensor) / 10)
        for name, part in made.named_modules():
            if isinstance(part, nn.LayerNorm):
                part.weight.add_(1)
                part.weight[3] = 10.0 if name.endswith("attention.output.LayerNorm") else 1.0
    made.temperature.copy_(torch.tensor([1.1, 0.9, 1.2, 1.3]))
    made.wide_weight.fill_(0.3)
    return made


@pytest.fixture(scope="module")
def exported(model: RadarModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As shipped, its strangeness included."""
    path = export(model, TOKENIZER, tmp_path_factory.mktemp("exported"), {"version": "test"})
    add_strangeness(path, np.zeros(HIDDEN, np.float32), np.eye(HIDDEN, dtype=np.float32))
    return path


def test_each_tensor_comes_back_but_for_rounding(model: RadarModel, exported: Path) -> None:
    wanted, found = dict(model.state_dict()), restored(exported)
    assert found.keys() == wanted.keys()
    assert found.pop("temperature").eq(1).all() and found.pop("wide_weight").eq(0).all()
    first_type = wanted.pop(TYPES)[0]
    assert not found.pop(TYPES).any()
    wanted[PLACES] = wanted[PLACES] + first_type
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32 and tensor.shape == wanted[name].shape
        rounded = nn.functional.cosine_similarity(tensor.flatten(), wanted[name].flatten(), dim=0)
        assert rounded > 0.99 and torch.allclose(tensor.norm(), wanted[name].norm(), rtol=0.02), name


def test_the_smoothed_matrices_are_in_the_file(exported: Path) -> None:
    assert any(tensor.name.endswith("widen.smooth") for tensor in onnx.load(exported).graph.initializer)


def test_the_answers_are_those_of_the_model(model: RadarModel, exported: Path) -> None:
    again = tiny()
    again.load_weights(restored(exported))
    with torch.no_grad():
        for ours, theirs in zip(model(IDS, MASK), again(IDS, MASK), strict=True):
            assert (ours - theirs).abs().mean() < 0.1 * ours.abs().mean()
        for ours, theirs in zip(model.wide(IDS), again.wide(IDS), strict=True):
            assert torch.allclose(ours, theirs, atol=0.02)


def test_a_model_of_fewer_layers_comes_back_and_so_do_tensors_kept_once_for_being_equal(tmp_path: Path) -> None:
    fresh, again = tiny(), tiny()
    upper = fresh.encoder.encoder.layer[1]
    fresh.drop([0])
    again.load_weights(restored(export(fresh, TOKENIZER, tmp_path, {})))
    (left,) = again.encoder.encoder.layer
    for name, tensor in upper.state_dict().items():
        assert torch.allclose(left.state_dict()[name], tensor, atol=0.002), name


def test_other_files_and_other_encoders_are_refused(model: RadarModel, exported: Path, tmp_path: Path) -> None:
    half = export_half(model, tmp_path / "half.onnx", {})
    old = tmp_path / "old.onnx"
    place = helper.make_tensor("model.encoder.embeddings.LayerNorm.weight", TensorProto.FLOAT, [1], [1.0])
    onnx.save(helper.make_model(helper.make_graph([], "old", [], [], [place])), old)
    for path in (half, old):
        with pytest.raises(SystemExit, match="not an int8 model"):
            restored(path)
    with pytest.raises(SystemExit, match="another model"):
        tiny(hidden=32).load_weights(restored(exported))
    shallow = tiny()
    shallow.drop([0])
    with pytest.raises(SystemExit, match="another model"):
        shallow.load_weights(restored(exported))


def after_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: str, *arguments: str
) -> dict[str, torch.Tensor]:
    """Weights at the end of a run of one step; it has no speed yet, so they are those that the run began with, but for
    the bias of the wide part, to which fitting adds one."""
    base, out, path = tmp_path / "base", tmp_path / "out", tmp_path / "plan.toml"
    tiny().encoder.save_pretrained(base)
    shutil.copyfile(TOKENIZER, base / "tokenizer.json")
    path.write_text(
        f"version = 'test'\n{plan}rows = 1\nminutes = 5\nsize = 4\n[shares]\nutterances = 8\n", encoding="utf-8"
    )
    rows = data.unique(data.utterances())[:8]
    mixture = data.Mixture({"utterances": rows}, [], {}, 0)
    monkeypatch.setattr(data, "data_folder", lambda: tmp_path)
    monkeypatch.setattr(data, "mixture", lambda _: mixture)
    monkeypatch.setattr(train, "fit", lambda wide, *_: wide.topics.bias.data.add_(1))
    monkeypatch.setattr(train, "finish", lambda *_: None)
    train.main(["--config", str(path), "--base", str(base), "--out", str(out), *arguments])
    ended: dict[str, torch.Tensor] = torch.load(out / "model.pt", weights_only=True)
    return ended


def test_the_trainer_starts_from_an_exported_model(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = after_one_step(tmp_path, monkeypatch, "", "--start", str(exported))
    begun, fitted = restored(exported), "wide.topics.bias"
    assert torch.equal(ended.pop(fitted), begun.pop(fitted) + 1)
    assert all(torch.equal(tensor, ended[name]) for name, tensor in begun.items())


def test_a_smaller_model_begins_with_the_layers_of_its_teacher_and_keeps_its_wide_part(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = after_one_step(tmp_path, monkeypatch, "drop = [0]\n", "--teacher", str(exported))
    taught, layer = restored(exported), "encoder.encoder.layer.{}.output.dense.weight"
    assert torch.equal(ended[layer.format(0)], taught[layer.format(1)]) and layer.format(1) not in ended
    wide = [name for name in taught if name.startswith("wide.")]
    assert wide and all(torch.equal(ended[name], taught[name]) for name in wide)
