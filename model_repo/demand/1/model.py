"""The text model as Triton's python backend runs it: the forward pass of serving/forward.py, behind Triton's batching.

Triton groups requests of one width; their texts are read together, one forward pass each, and handed back request by
request. The folder that holds ``serving`` must be on PYTHONPATH (serving/embedded.py sees to it).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb

from serving.forward import Forward


class TritonPythonModel:
    """The interface that Triton calls."""

    def initialize(self, args: dict[str, str]) -> None:
        if int(np.__version__.partition(".")[0]) > 1:
            raise pb.TritonModelException("This python backend reads empty arrays under numpy 2: install numpy 1.26.")
        parameters = json.loads(args["model_config"]).get("parameters", {})
        threads = int(parameters.get("threads", {}).get("string_value", "0"))
        folder = Path(args["model_repository"]) / args["model_version"]
        self._forward = Forward(folder / "model.onnx", threads)

    def execute(self, requests: list[Any]) -> list[Any]:
        ids, mask = (
            np.concatenate([pb.get_input_tensor_by_name(request, name).as_numpy() for request in requests])
            for name in ("input_ids", "attention_mask")
        )
        outputs = self._forward(ids, mask)
        responses, start = [], 0
        for request in requests:
            end = start + pb.get_input_tensor_by_name(request, "input_ids").shape()[0]
            responses.append(
                pb.InferenceResponse([pb.Tensor(name, tensor[start:end]) for name, tensor in outputs.items()])
            )
            start = end
        return responses

    def finalize(self) -> None:
        self._forward.close()
