"""From a trained model to the two files that Triton serves: model.onnx (int8) and tokenizer.json.

The text model runs on CPUs, so matrices and embeddings are stored as int8 with one scale per channel and the
transformer blocks are fused first; the file shrinks to a quarter and texts per second grow. The export refuses to
write a model whose int8 answers stray from the fp32 ones. Besides the four tensors that are served, the graph has
``embedding`` [B, 384], the mean state of the tokens, for new labels and for telling texts from outside the domain.
"""

import json
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model
from tokenizers import Tokenizer

from training.model import HEADS, Calibrated, RadarModel

OPSET: Final = 17
AXES: Final = {
    "input_ids": {0: "batch", 1: "tokens"},
    "attention_mask": {0: "batch", 1: "tokens"},
    "sentiment": {0: "batch"},
    "aspects": {0: "batch"},
    "demands": {0: "batch"},
    "evidence": {0: "batch", 1: "tokens"},
    "embedding": {0: "batch"},
}
#: Layers whose second feed-forward matrix stays fp32: what goes into it has outliers that one scale for a whole text
#: cannot hold. On 120 texts this halved the distance to fp32 (sentiment 0.022 to 0.010), for 7 MB.
OUTLYING: Final = ("layer.4/", "layer.5/", "layer.6/", "layer.7/")
#: Largest allowed mean absolute difference between int8 and fp32 probabilities.
TOLERANCE: Final = 0.05


def export(model: RadarModel, tokenizer: Path, target: Path, metadata: dict[str, Any]) -> Path:
    """Write ``target/model.onnx`` and ``target/tokenizer.json`` and return the former.

    ``metadata`` goes into the ONNX file under the key ``radar`` as JSON: version, thresholds, languages, max_length.
    """
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        fp32, fused, int8 = (Path(folder) / name for name in ("fp32.onnx", "fused.onnx", "int8.onnx"))
        _to_onnx(model, fp32)
        _fuse(model, fp32, fused)
        quantize_dynamic(
            fused, int8, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Attention", "Gather"], nodes_to_exclude=_outlying(fused),
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )  # fmt: skip
        difference = disagreement(fp32, int8, len(model.encoder.get_input_embeddings().weight))
        if difference > TOLERANCE:
            raise SystemExit(f"Not written: int8 differs from fp32 by {difference:.3f} (allowed: {TOLERANCE}).")
        shutil.copyfile(int8, target / "model.onnx")
    set_metadata(target / "model.onnx", metadata)
    plain = Tokenizer.from_file(str(tokenizer))
    plain.no_padding()
    plain.no_truncation()
    plain.save(str(target / "tokenizer.json"), pretty=False)
    return target / "model.onnx"


def export_half(model: RadarModel, path: Path, metadata: dict[str, Any]) -> Path:
    """Write the same model in fp16 for GPUs (int64 in, float32 out), for the ``gpu`` configuration of Triton."""
    with tempfile.TemporaryDirectory() as folder:
        fp32, fused = (Path(folder) / name for name in ("fp32.onnx", "fused.onnx"))
        _to_onnx(model, fp32)
        _fuse(model, fp32, fused)
        onnx.save(convert_float_to_float16(onnx.load(fused), keep_io_types=True), path)
    set_metadata(path, metadata)
    return path


def set_metadata(path: Path, metadata: dict[str, Any]) -> None:
    """Replace the ``radar`` entry of an exported model's metadata."""
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, {"radar": json.dumps(metadata, ensure_ascii=False)})
    onnx.save(graph, path)


def disagreement(one: Path, other: Path, vocabulary: int) -> float:
    """Mean absolute difference between two models' probabilities on random token ids."""
    random = np.random.default_rng(0)
    ids = random.integers(4, vocabulary, size=(16, 24), dtype=np.int64)
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    answers = [ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(HEADS, feed) for path in (one, other)]
    return max(float(np.abs(a - b).mean()) for a, b in zip(*answers, strict=True))


def _outlying(path: Path) -> list[str]:
    return [
        node.name
        for node in onnx.load(path).graph.node
        if node.op_type == "MatMul"
        and node.name.endswith("output/dense/MatMul")
        and "attention" not in node.name
        and any(layer in node.name for layer in OUTLYING)
    ]


def _to_onnx(model: RadarModel, path: Path) -> None:
    ids = torch.full((2, 8), 5, dtype=torch.int64)
    ids[1, 6:] = 1
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of traced constants, none of which depends on batch or tokens: tests compare
        torch.onnx.export(
            Calibrated(model).eval(), (ids, (ids != 1).long()), str(path), opset_version=OPSET, dynamo=False,
            input_names=["input_ids", "attention_mask"], output_names=[*HEADS, "embedding"], dynamic_axes=AXES,
        )  # fmt: skip


def _fuse(model: RadarModel, source: Path, path: Path) -> None:
    config = model.encoder.config
    options = FusionOptions("bert")
    options.enable_embed_layer_norm = False
    fused = optimize_model(
        str(source), "bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size,
        optimization_options=options, opt_level=0,
    )  # fmt: skip
    fused.save_model_to_file(str(path))
