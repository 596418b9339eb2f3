"""One text, one forward pass: how a text is read on CPUs, in Triton and in process alike.

The int8 model scales its activations by the range it sees in a whole batch, so in a batch the neighbours of a text
and its padding would change its scores by some hundredths. Read alone and unpadded, a text has the same scores bit
for bit, wherever and whenever it is read. That costs nothing: many short passes side by side, one per core, are as
fast on CPUs as one wide pass.

Triton's model.py imports this file, hence it needs numpy and ONNX Runtime alone.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

NAMES = ("sentiment", "aspects", "demands", "strangeness", "evidence")
Array = npt.NDArray[np.float32]


class Forward:
    """The model in memory, with ``threads`` texts in work at once (0: one per core that this process may use)."""

    def __init__(self, model_file: Path, threads: int = 0) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(str(model_file), options, providers=["CPUExecutionProvider"])
        offered = {output.name for output in self._session.get_outputs()}
        self._names = [name for name in NAMES if name in offered]
        self._pool = ThreadPoolExecutor(threads or len(os.sched_getaffinity(0)), "forward")

    def __call__(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> dict[str, Array]:
        """int64 [B, T] twice -> the output tensors of serving/labels.py; evidence of padding is 0.

        A model of before version 2 cannot tell strange texts: to it none is, 0.
        """
        lengths = mask.sum(axis=1).tolist()
        answers = list(self._pool.map(self._read, [row[:length] for row, length in zip(ids, lengths, strict=True)]))
        outputs = {name: np.stack([answer[place] for answer in answers]) for place, name in enumerate(self._names[:-1])}
        outputs.setdefault("strangeness", np.zeros((len(ids), 1), np.float32))
        evidence = np.zeros((*ids.shape, answers[0][-1].shape[-1]), np.float32)
        for row, answer in enumerate(answers):
            evidence[row, : lengths[row]] = answer[-1]
        return {**outputs, NAMES[-1]: evidence}

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _read(self, ids: npt.NDArray[np.int64]) -> list[Array]:
        feed = {"input_ids": ids[None], "attention_mask": np.ones_like(ids[None])}
        return [output[0] for output in self._session.run(self._names, feed)]
