"""The model as exported says what the model says, in PyTorch and in ONNX Runtime, and stays in its few operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from serving.export import disagreement, export, export_half, export_plain
from training.batches import load_tokenizer
from training.lean import OUTLYING, Int8Embedding, Int8Linear, int8, lean
from training.losses import distilled
from training.model import HEADS, Calibrated, Logits, RadarModel
from training.train import CONFIGS, TOKENIZER, Plan, full

Array = npt.NDArray[np.float32]
IDS = torch.tensor([[0, 20, 30, 500, 9_000, 2], [0, 700, 41, 2, 1, 1]])
MASK = (IDS != 1).long()


@pytest.fixture(scope="module")
def model() -> RadarModel:
    torch.manual_seed(0)
    made = RadarModel.tiny(load_tokenizer(TOKENIZER).get_vocab_size(), hidden=64).eval()
    made.wide_weight.fill_(0.3)
    for grams in (made.wide.feeling, made.wide.topics):
        nn.init.normal_(grams.table.weight)
    return made


def answers(model: RadarModel) -> list[Array]:
    with torch.no_grad():
        return [tensor.numpy() for tensor in Calibrated(model)(IDS, MASK)]


def read(path: Path) -> list[Array]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: list[Array] = session.run([*HEADS, "embedding"], {"input_ids": IDS.numpy(), "attention_mask": MASK.numpy()})
    return found


def alike(ours: list[Array], theirs: list[Array], within: float) -> bool:
    """But for the evidence of padding, which nobody reads."""
    return all(
        np.abs(a[:, :4] - b[:, :4]).max() < within and np.abs(a[0] - b[0]).max() < within
        for a, b in zip(ours, theirs, strict=True)
    )


def test_a_lean_model_says_the_same(model: RadarModel) -> None:
    assert alike(answers(model), answers(lean(model)), 1e-5)


def test_onnx_runtime_computes_what_pytorch_does(model: RadarModel, tmp_path: Path) -> None:
    assert alike(read(export_plain(model, tmp_path / "plain.onnx")), answers(model), 1e-5)
    small = int8(lean(model), [[0, 20, 30, 2], [0, 41, 2]])
    assert not alike(answers(small), answers(model), 1e-5)
    path = export(model, TOKENIZER, tmp_path, {"version": "test"})
    assert disagreement(tmp_path / "plain.onnx", path, [[0, 20, 30, 2]]) < 0.05
    assert alike(read(export_half(model, tmp_path / "half.onnx", {})), answers(model), 0.01)


def test_the_graph_stays_in_the_operators_that_are_fast(model: RadarModel, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    path = export(model, TOKENIZER, tmp_path, {})
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    layers = len(model.encoder.encoder.layer)
    assert operators.count("QAttention") == layers
    assert operators.count("DynamicQuantizeMatMul") == 3 * layers
    assert not {"SkipLayerNormalization", "Erf", "Einsum"} & set(operators)


def test_an_outlying_channel_does_not_drown_the_others() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 16)
    states = torch.randn(1, 8, 64)
    states[..., 5] *= 100
    peak = states.abs().flatten(0, 1).amax(0)
    with torch.no_grad():
        wanted = linear(states)
        errors = [float((Int8Linear(linear, known)(states) - wanted).abs().mean()) for known in (peak, torch.ones(64))]
    assert errors[0] < errors[1] / 2


def test_what_has_no_outliers_costs_no_multiplication() -> None:
    even = torch.linspace(1, OUTLYING / 2, 8)
    assert Int8Linear(nn.Linear(8, 8), even).smooth is None


def test_each_row_of_a_table_has_its_own_scale() -> None:
    table = nn.Embedding(3, 4)
    table.weight.data = torch.tensor([[1e-3, -2e-3, 0, 0], [100.0, -50, 3, 0], [0, 0, 0, 0]])
    found = Int8Embedding(table)(torch.tensor([0, 1, 2]))
    assert torch.allclose(found, table.weight, rtol=0, atol=0.4) and torch.allclose(
        found[0], table.weight[0], atol=1e-5
    )


def test_dropped_layers_are_gone_and_their_weights_load(model: RadarModel) -> None:
    vocabulary = load_tokenizer(TOKENIZER).get_vocab_size()
    small, again = RadarModel.tiny(vocabulary, hidden=64).eval(), RadarModel.tiny(vocabulary, hidden=64).eval()
    small.load_weights(model.state_dict())
    small.drop([0])
    assert torch.equal(
        small.encoder.encoder.layer[0].output.dense.weight, model.encoder.encoder.layer[1].output.dense.weight
    )
    again.load_weights(small.state_dict())
    assert alike(answers(again), answers(small), 1e-6) and not alike(answers(small), answers(model), 1e-3)


def test_plans_that_drop_layers_and_no_others_have_a_teacher(tmp_path: Path) -> None:
    small, shipped = (Plan.read(CONFIGS / f"{name}.toml") for name in ("small", "shipped"))
    assert set(small.drop) < set(range(12))
    for plan, teacher in ((small, None), (shipped, tmp_path)):
        with pytest.raises(SystemExit, match="--teacher"):
            full(tmp_path, tmp_path, plan, tmp_path, teacher=teacher)


def test_a_student_that_agrees_has_nothing_to_learn_and_padding_does_not_count() -> None:
    torch.manual_seed(0)
    teacher = Logits(torch.randn(2, 3), torch.randn(2, 13, 4), torch.randn(2, 10, 2), torch.randn(2, 6, 23))
    padded = teacher._replace(evidence=torch.where(MASK[..., None] > 0, teacher.evidence, 9.0))
    assert all(float(loss) == pytest.approx(0, abs=1e-6) for loss in distilled(padded, teacher, MASK).values())
    for head in HEADS:
        other = teacher._replace(**{head: getattr(teacher, head) + torch.randn_like(getattr(teacher, head))})
        wrong = {task for task, loss in distilled(other, teacher, MASK).items() if float(loss) > 1e-3}
        assert wrong == {head}
