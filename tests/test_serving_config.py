"""Triton's configurations say what serving/labels.py says."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from serving.decode import output_shapes
from stream.settings import ROOT

MODELS = ("demand", "demand_small")
FILES = [
    file
    for folder in (ROOT / "model_repo" / model for model in MODELS)
    for file in (folder / "config.pbtxt", *sorted((folder / "configs").glob("*.pbtxt")))
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "model_repo")))
def test_configuration(path: Path) -> None:
    config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    assert config.name == "", "the folder is the name, so both models share their configurations"
    assert {tensor.name: (list(tensor.dims), tensor.data_type) for tensor in config.input} == {
        "input_ids": ([-1], model_config_pb2.TYPE_INT64),
        "attention_mask": ([-1], model_config_pb2.TYPE_INT64),
    }
    assert {tensor.name: tuple(tensor.dims) for tensor in config.output} == {
        name: shape[1:] for name, shape in output_shapes(1, -1).items()
    }
    assert all(tensor.data_type == model_config_pb2.TYPE_FP32 for tensor in config.output)


def test_each_place_has_its_configuration() -> None:
    assert [path.stem for path in FILES] == ["config", "cpu", "gpu"] * len(MODELS)
