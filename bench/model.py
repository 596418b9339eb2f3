"""``make bench-model``: what the text model costs on CPUs, in all its forms, side by side.

The full network in PyTorch (fp32, batches of 32 of like length, all cores) is what the exported forms are measured
against; those are read as they are served, one text a forward pass, as many at once as there are cores. Speed does not
depend on the weights, so the networks have random ones and need no training. Texts come from the repository (about 40
characters, Chinese and English) and, where the data sets are at hand, from real reviews of all lengths. The systems
take turns, so that a change of the machine's speed meets them all. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from bench.report import result
from serving.export import export, export_plain
from serving.forward import Forward
from training import data
from training.batches import Batch, collate, encode, load_tokenizer
from training.model import RadarModel
from training.train import CONFIGS, REPOSITORY_MODEL, TOKENIZER, Plan

TEXTS: Final = 96  # of each kind
LENGTHS: Final = range(33, 48)  # characters of the short kinds
BATCH: Final = 32
TORCH: Final = "full, torch fp32"
PACKAGES: Final = ("torch", "transformers", "onnxruntime", "numpy")

Read = Callable[[Batch], object]


def kinds() -> dict[str, list[data.Row]]:
    """The texts: as many of each kind."""
    found = {}
    for lang in ("zh", "en"):
        rows = (row for row in data.utterances() if row.lang == lang and len(row.text) in LENGTHS)
        found[f"{lang}, 40 characters"] = list(islice(rows, TEXTS))
    try:
        folder = data.data_folder()
    except SystemExit:
        return found
    for lang, reviews in (("zh", data.online_shopping(folder)), ("en", data.amazon(folder, "test"))):
        found[f"{lang}, reviews"] = data.spread(islice(reviews, 8_000), TEXTS, lambda row: row.source)
    return found


def batches(rows: Sequence[data.Row], tokenizer: Tokenizer) -> list[Batch]:
    encoded = sorted(encode(rows, tokenizer), key=lambda one: len(one.ids))
    return [collate(encoded[start : start + BATCH]) for start in range(0, len(encoded), BATCH)]


def networks() -> dict[str, RadarModel]:
    """The full network and the small one of ``configs/small.toml``."""
    full, small = (RadarModel.sized_as_base(load_tokenizer(TOKENIZER).get_vocab_size()).eval() for _ in range(2))
    small.drop(Plan.read(CONFIGS / "small.toml").drop)
    return {"full": full, "small": small}


def in_torch(model: RadarModel) -> Read:
    def read(batch: Batch) -> object:
        with torch.inference_mode():
            return model(batch.ids, batch.mask)

    return read


def as_served(path: Path) -> Read:
    forward = Forward(path)
    return lambda batch: forward(batch.ids.numpy(), batch.mask.numpy())


def rates(systems: Mapping[str, Read], texts: Sequence[Batch], rounds: int) -> dict[str, float]:
    """Texts per second of each system, which read batch after batch in turn; of each batch the median of the rounds."""
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in texts] for name in systems}
    for read in systems.values():
        read(texts[0])
    for _ in range(rounds):
        for place, batch in enumerate(texts):
            for name, read in systems.items():
                begun = time.perf_counter()
                read(batch)
                seconds[name][place].append(time.perf_counter() - begun)
    count = sum(len(batch.ids) for batch in texts)
    return {name: round(count / sum(map(median, found)), 1) for name, found in seconds.items()}


def measure(rounds: int, folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    made = networks()
    shipped = REPOSITORY_MODEL / "model.onnx"
    files = {"shipped, int8": shipped} if shipped.is_file() else {}
    files["full, ONNX fp32"] = export_plain(made["full"], folder / "full.onnx")
    for name, model in made.items():
        files[f"{name}, ONNX int8"] = export(model, TOKENIZER, folder / name, {})
    systems = {TORCH: in_torch(made["full"])} | {name: as_served(path) for name, path in files.items()}
    tokenizer = load_tokenizer(TOKENIZER)
    texts = {kind: batches(rows, tokenizer) for kind, rows in kinds().items()}
    return {
        "layers": {name: len(model.encoder.encoder.layer) for name, model in made.items()},
        "megabytes": {name: round(path.stat().st_size / 1e6, 1) for name, path in files.items()},
        "tokens": {
            kind: round(float(torch.cat([batch.mask.sum(1) for batch in some]).float().mean()), 1)
            for kind, some in texts.items()
        },
        "texts_per_s": {kind: rates(systems, some, rounds) for kind, some in texts.items()},
    }


def show(figures: Mapping[str, Any]) -> None:
    rates = figures["texts_per_s"]
    table = Table("texts/s (× torch)", *(f"{kind} ({figures['tokens'][kind]:.0f} tokens)" for kind in rates), "MB")
    for name in next(iter(rates.values())):
        cells = [f"{found[name]:.0f} ({found[name] / found[TORCH]:.2f})" for found in rates.values()]
        table.add_row(name, *cells, f"{figures['megabytes'].get(name, '')}")
    console = Console(width=120)
    console.print(table)
    layers = ", ".join(f"{name} {count} layers" for name, count in figures["layers"].items())
    console.print(
        f"{os.cpu_count()} cores; {layers}. Not measured: quality (python -m training.evaluate), GPU, Triton."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="times each system reads each kind of text")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options.rounds, Path(folder))
    show(figures)
    print(result("model", figures, PACKAGES))


if __name__ == "__main__":
    main()
