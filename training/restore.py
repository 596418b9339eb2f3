"""From an exported model back to weights that training goes on from: ``--start model_repo/demand/1/model.onnx``.

The float weights of a run are not in the repository, the int8 ones are. This undoes :mod:`training.lean`: whole
numbers times their scale, smoothing back into the matrices, query, key and value apart. What rounding took stays lost.
Temperatures and the weights of the wide part are left neutral: the end of a run chooses them anew.
"""

from pathlib import Path
from typing import Final

import onnx
import torch
from torch import Tensor

from training.model import HEADS

#: Matrices and norms of a lean layer by their names in BERT.
MATRICES: Final = {"mix": "attention.output.dense", "widen": "intermediate.dense", "narrow": "output.dense"}
NORMS: Final = {"mix_norm": "attention.output.LayerNorm", "norm": "output.LayerNorm"}
PROJECTIONS: Final = ("query", "key", "value")
TOKEN_TYPES: Final = 2  #: all zero: the positions hold the first type already, and no other is ever asked for


def restored(path: Path) -> dict[str, Tensor]:
    """The state of the :class:`~training.model.RadarModel` in an int8 file, in fp32; SystemExit for any other file."""
    kept = _tensors(onnx.load(path).graph)
    if not {"encoder.words.scale", "wide.feeling.table.scale"} <= kept.keys():
        raise SystemExit(
            f"{path} is not an int8 model as training/lean.py makes it, but an older one or fp16: name the weights "
            "of its run (model.pt), or export it anew from there."
        )
    places = kept["encoder.places"]
    state = {name: tensor for name, tensor in kept.items() if name.split(".")[0] in ("norm", *HEADS)}
    state |= {
        "temperature": torch.ones(len(HEADS)),
        "wide_weight": torch.zeros(len(HEADS) - 1),
        "wide.feeling.table.weight": _whole(kept, "wide.feeling.table"),
        "wide.feeling.bias": kept["wide.feeling.bias"],
        "wide.topics.table.weight": _whole(kept, "wide.topics.table"),
        "wide.topics.bias": kept["wide.topics.bias"],
        "encoder.embeddings.word_embeddings.weight": _whole(kept, "encoder.words"),
        "encoder.embeddings.position_embeddings.weight": places,
        "encoder.embeddings.token_type_embeddings.weight": torch.zeros(TOKEN_TYPES, places.shape[1]),
    }
    _name(state, "encoder.embeddings.LayerNorm", kept["encoder.norm.weight"], kept["encoder.norm.bias"])
    layers = {name.split(".")[2] for name in kept if name.startswith("encoder.layers.")}
    for layer in layers:
        lean, bert = f"encoder.layers.{layer}", f"encoder.encoder.layer.{layer}"
        weights, biases = _whole(kept, f"{lean}.attention").chunk(3, dim=1), kept[f"{lean}.attention.bias"].chunk(3)
        for name, weight, bias in zip(PROJECTIONS, weights, biases, strict=True):
            _name(state, f"{bert}.attention.self.{name}", weight.T, bias)
        for own, name in MATRICES.items():
            _name(state, f"{bert}.{name}", _whole(kept, f"{lean}.{own}").T, kept[f"{lean}.{own}.bias"])
        for own, name in NORMS.items():
            _name(state, f"{bert}.{name}", kept[f"{lean}.{own}.weight"], kept[f"{lean}.{own}.bias"])
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _name(state: dict[str, Tensor], part: str, weight: Tensor, bias: Tensor) -> None:
    state[f"{part}.weight"], state[f"{part}.bias"] = weight, bias


def _whole(kept: dict[str, Tensor], part: str) -> Tensor:
    """An int8 matrix [F, K] or table in fp32."""
    weight = kept[f"{part}.weight"] * kept[f"{part}.scale"]
    smooth = kept.get(f"{part}.smooth")
    return weight if smooth is None else weight * smooth[:, None]


def _tensors(graph: onnx.GraphProto) -> dict[str, Tensor]:
    """The tensors of a graph by their names in PyTorch.

    The exporter keeps equal ones once, under their other names too, and turns some matrices of the heads, which then
    have only the name of the node that multiplies by them.
    """
    kept = {one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy()) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in kept:
            kept[node.output[0]] = kept[node.input[0]]
        elif node.op_type == "MatMul" and node.input[1].startswith("onnx::"):
            part = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            kept[f"{part}.weight"] = kept[node.input[1]].T
    return {name.removeprefix("model."): tensor for name, tensor in kept.items()}
