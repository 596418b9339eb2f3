"""From a trained model to the two files that Triton serves: model.onnx (int8) and tokenizer.json.

The text model runs on CPUs, so it is written in few operators, with matrices and embeddings in int8
(:mod:`training.lean`): a quarter of the file and three times the texts per second. The export refuses to write a model
whose int8 answers stray from the fp32 ones. Besides the tensors that are served, the graph has
``embedding`` [B, 384], the mean state of the tokens, on which new labels are learnt and from which
:func:`add_strangeness` makes the last served one.
"""

import json
import random
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from onnxruntime.transformers.float16 import convert_float_to_float16
from tokenizers import Tokenizer

from training import data
from training.lean import int8, lean
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
#: Texts from which the int8 model learns how large its inputs get, and on which it is compared with fp32.
SAMPLES: Final = 96
#: Largest allowed mean absolute difference between int8 and fp32 probabilities.
TOLERANCE: Final = 0.05


def export(model: RadarModel, tokenizer: Path, target: Path, metadata: dict[str, Any]) -> Path:
    """Write ``target/model.onnx`` and ``target/tokenizer.json`` and return the former.

    ``metadata`` goes into the ONNX file under the key ``radar`` as JSON: version, thresholds, languages, max_length.
    """
    target.mkdir(parents=True, exist_ok=True)
    plain = Tokenizer.from_file(str(tokenizer))
    plain.no_padding()
    plain.no_truncation()
    seen, unseen = _samples(plain)
    with tempfile.TemporaryDirectory() as folder:
        fp32, small = (Path(folder) / name for name in ("fp32.onnx", "int8.onnx"))
        export_plain(model, fp32)
        _to_onnx(int8(lean(model), seen), small)
        difference = disagreement(fp32, small, unseen)
        if difference > TOLERANCE:
            raise SystemExit(f"Not written: int8 differs from fp32 by {difference:.3f} (allowed: {TOLERANCE}).")
        shutil.copyfile(small, target / "model.onnx")
    set_metadata(target / "model.onnx", metadata)
    plain.save(str(target / "tokenizer.json"), pretty=False)
    return target / "model.onnx"


def export_plain(model: RadarModel, path: Path) -> Path:
    """Write the same model in fp32, without metadata, for comparisons."""
    _to_onnx(lean(model), path)
    return path


def export_half(model: RadarModel, path: Path, metadata: dict[str, Any]) -> Path:
    """Write the same model in fp16 for GPUs (int64 in, float32 out), for the ``gpu`` configuration of Triton."""
    export_plain(model, path)
    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)
    set_metadata(path, metadata)
    return path


def set_metadata(path: Path, metadata: dict[str, Any]) -> None:
    """Replace the ``radar`` entry of an exported model's metadata."""
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, {"radar": json.dumps(metadata, ensure_ascii=False)})
    onnx.save(graph, path)


def add_strangeness(path: Path, middle: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]) -> None:
    """Give an exported model the output ``strangeness`` [B, 1]: the length of (embedding - middle [H]) @ scale [H, H].

    One matrix of the hidden size a text: a thousandth of a forward pass. Raises ValueError for a model that has it.
    """
    model = onnx.load(path)
    if any(output.name == "strangeness" for output in model.graph.output):
        raise ValueError(f"{path} has a strangeness already: export the model again for another.")
    helper, graph = onnx.helper, model.graph
    for name, values in (("middle", middle), ("scale", scale)):
        graph.initializer.append(onnx.numpy_helper.from_array(values, f"strangeness/{name}"))
    graph.node.extend(
        [
            helper.make_node("Sub", ["embedding", "strangeness/middle"], ["strangeness/apart"]),
            helper.make_node("MatMul", ["strangeness/apart", "strangeness/scale"], ["strangeness/scaled"]),
            helper.make_node("ReduceL2", ["strangeness/scaled"], ["strangeness"], axes=[1], keepdims=1),
        ]
    )
    graph.output.append(helper.make_tensor_value_info("strangeness", onnx.TensorProto.FLOAT, ["batch", 1]))
    onnx.save(model, path)


def disagreement(one: Path, other: Path, texts: Sequence[Sequence[int]]) -> float:
    """Mean absolute difference between two models' probabilities, of the head where it is largest; texts as ids."""
    sessions = [ort.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (one, other)]
    differences = []
    for text in texts:
        ids = np.array([text], np.int64)
        ours, theirs = (run.run(HEADS, {"input_ids": ids, "attention_mask": np.ones_like(ids)}) for run in sessions)
        differences.append([float(np.abs(a - b).mean()) for a, b in zip(ours, theirs, strict=True)])
    return float(np.mean(differences, axis=0).max())


def _samples(tokenizer: Tokenizer) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of texts that come with the repository: some to learn from, some to compare on."""
    texts = [row.text for row in data.part(data.utterances(), "train")]
    chosen = random.Random(0).sample(texts, 2 * SAMPLES)
    ids = [encoding.ids for encoding in tokenizer.encode_batch(chosen)]
    return ids[:SAMPLES], ids[SAMPLES:]


def _to_onnx(model: RadarModel, path: Path) -> None:
    ids = torch.full((2, 8), 5, dtype=torch.int64)
    ids[1, 6:] = 1
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of traced constants, none of which depends on batch or tokens: tests compare
        torch.onnx.export(
            Calibrated(model).eval(), (ids, (ids != 1).long()), str(path), opset_version=OPSET, dynamo=False,
            input_names=["input_ids", "attention_mask"], output_names=[*HEADS, "embedding"], dynamic_axes=AXES,
            custom_opsets={"com.microsoft": 1},
        )  # fmt: skip
