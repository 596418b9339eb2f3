"""The trainer: ``python -m training.train`` for the shipped model, ``--smoke`` for a tiny one in a minute or two.

A run has a budget of rows and of minutes; whichever is used up faster drives the learning rate down to zero, so a run
on a busy machine still ends on time and well annealed. Every few minutes the state is saved, and a run started again
with the same ``--out`` goes on from there. At the end the model is calibrated on dev rows, exported as int8 and given
the thresholds chosen on the exported model's own dev answers.
"""

import argparse
import math
import os
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from serving.export import export, export_half, set_metadata
from serving.labels import ASPECTS, DEMANDS, EVIDENCE_LABELS
from training import calibrate, data, metrics
from training.batches import MAX_LENGTH, Encoded, batches, collate, encode, load_tokenizer, trainable
from training.losses import task_losses, total
from training.model import RadarModel

REPOSITORY_MODEL: Final = data.ROOT / "model_repo" / "demand" / "1"
TOKENIZER: Final = REPOSITORY_MODEL / "tokenizer.json"
VERSION: Final = "1"
WARM_UP: Final = 0.06
SAVE_SECONDS: Final = 240
REPORT_BATCHES: Final = 50


@dataclass(frozen=True)
class Plan:
    """What a run may spend and how it learns."""

    rows: int
    minutes: float
    rate: float = 1e-4
    head_rate: float = 4e-3
    size: int = 32
    frozen: int = 4  #: lowest encoder layers that stay as they are; the embeddings are the first
    seed: int = 0


class Trainer:
    """One run: model, optimiser, progress. ``losses`` holds the mean total loss of every reported stretch."""

    def __init__(self, model: RadarModel, plan: Plan, out: Path) -> None:
        self.model, self.plan, self.out = model, plan, out
        self.rows, self.seconds, self.epoch = 0, 0.0, 0
        self.losses: list[float] = []
        for frozen in [model.encoder.embeddings, *model.encoder.encoder.layer][: plan.frozen]:
            frozen.requires_grad_(False)
        encoder = [p for p in model.encoder.parameters() if p.requires_grad]
        heads = [p for name, p in model.named_parameters() if not name.startswith("encoder.")]
        self.optimiser = torch.optim.AdamW(
            [{"params": encoder, "peak": plan.rate}, {"params": heads, "peak": plan.head_rate}], weight_decay=0.01
        )

    @property
    def progress(self) -> float:
        """Share of the budget used: of rows or of minutes, whichever is further."""
        return max(self.rows / self.plan.rows, self.seconds / (60 * self.plan.minutes))

    def run(self, examples: Sequence[Encoded], dev: Sequence[data.Row], tokenizer: Tokenizer) -> None:
        """Train until the budget is used up."""
        saved = 0.0
        recent: list[dict[str, Tensor]] = []
        self.model.train()
        while self.progress < 1:
            for chosen in batches(examples, self.plan.size, self.plan.seed + self.epoch):
                start = time.monotonic()
                recent.append(self._step(chosen))
                self.rows += len(chosen)
                self.seconds += time.monotonic() - start
                if len(recent) == REPORT_BATCHES:
                    self._report(recent)
                    recent = []
                if self.seconds - saved > SAVE_SECONDS:
                    saved = self.seconds
                    self.save()
                    self._check(dev, tokenizer)
                if self.progress >= 1:
                    break
            self.epoch += 1
        if recent:
            self._report(recent)
        self.save()

    def _step(self, chosen: Sequence[Encoded]) -> dict[str, Tensor]:
        warmed = min(1.0, self.progress / WARM_UP)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * warmed * max(0.0, 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress))))
        batch = collate(chosen)
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.model(batch.ids, batch.mask)
        losses = task_losses(type(logits)(*(scores.float() for scores in logits)), batch)
        self.optimiser.zero_grad()
        torch.autograd.backward(total(losses))
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        return {task: loss.detach() for task, loss in losses.items()}

    def _report(self, recent: Sequence[dict[str, Tensor]]) -> None:
        means = {task: float(torch.stack([losses[task] for losses in recent]).mean()) for task in recent[0]}
        self.losses.append(float(np.mean([total(losses) for losses in recent])))
        parts = " ".join(f"{task} {loss:.3f}" for task, loss in means.items())
        speed = self.rows / max(self.seconds, 1e-9)
        say(f"{self.progress:6.1%} {self.rows:6d} rows {speed:5.1f}/s  loss {self.losses[-1]:.3f}: {parts}")

    def _check(self, dev: Sequence[data.Row], tokenizer: Tokenizer) -> None:
        self.model.eval()
        found = metrics.answers(dev, tokenizer, metrics.torch_predict(self.model))
        self.model.train()
        say(
            f"       dev: sentiment {metrics.sentiment_accuracy(found):.3f}  aspects {metrics.aspect_f1(found, {}):.3f}"
            f"  demands {metrics.demand_f1(found, {}):.3f}  evidence {metrics.evidence_f1(found):.3f}"
        )

    def save(self) -> None:
        """Write the state beside the last one and swap, so that a kill never leaves half a file."""
        self.out.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "rows": self.rows,
            "seconds": self.seconds, "epoch": self.epoch, "losses": self.losses,
        }  # fmt: skip
        torch.save(state, self.out / "last.part")
        (self.out / "last.part").replace(self.out / "last.pt")

    def resume(self) -> None:
        """Take up the state in ``out``, if there is one; the pass over the data starts anew with another order."""
        path = self.out / "last.pt"
        if not path.is_file():
            return
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.rows, self.seconds, self.losses = state["rows"], state["seconds"], state["losses"]
        self.epoch = state["epoch"] + 1
        say(f"Going on from {path} at {self.progress:.0%}.")


def say(line: str) -> None:
    """Print at once, also into a log file."""
    print(line, flush=True)


def finish(model: RadarModel, dev: Sequence[data.Row], tokenizer_path: Path, target: Path, out: Path) -> Path:
    """Calibrate on dev rows, export, choose thresholds on the exported model and store them in it.

    The fp16 model for GPUs, with the same thresholds, stays in ``out``: at 77 MB it is not shipped.
    """
    tokenizer = load_tokenizer(tokenizer_path)
    model.eval()
    model.temperature.fill_(1.0)
    model.temperature.copy_(
        torch.tensor(calibrate.temperatures(metrics.answers(dev, tokenizer, metrics.torch_predict(model))))
    )
    facts: dict[str, Any] = {"version": VERSION, "languages": ["zh", "en"], "max_length": MAX_LENGTH}
    path = export(model, tokenizer_path, target, facts)
    chosen = calibrate.thresholds(metrics.answers(dev, tokenizer, metrics.onnx_predict(path)))
    set_metadata(path, facts | {"thresholds": chosen})
    export_half(model, out / "model.fp16.onnx", facts | {"thresholds": chosen})
    say(f"Temperatures {[round(t, 2) for t in model.temperature.tolist()]}; wrote {path}")
    return path


def full(base: Path, out: Path, plan: Plan, target: Path) -> None:
    """The shipped model."""
    say("Reading the data sets ...")
    mixture = data.mixture(data.data_folder())
    tokenizer = load_tokenizer(base / "tokenizer.json")
    examples = trainable(encode(mixture.train, tokenizer))
    say(f"{len(examples)} training rows, {len(mixture.dev)} dev rows, {mixture.dropped} left out as leaks.")
    trainer = Trainer(RadarModel.from_base(base), plan, out)
    trainer.resume()
    trainer.run(examples, random.Random(0).sample(mixture.dev, min(400, len(mixture.dev))), tokenizer)
    finish(trainer.model, mixture.dev, base / "tokenizer.json", target, out)


def smoke(plan: Plan) -> None:
    """Train a tiny model on the repository's own texts, export it and read it back: the whole path, little skill."""
    tokenizer = load_tokenizer(TOKENIZER)
    mixture = data.mixture(None)
    examples = trainable(encode(mixture.train, tokenizer))
    say(f"{len(examples)} training rows from the repository, a model of two layers.")
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(RadarModel.tiny(tokenizer.get_vocab_size()), plan, Path(folder) / "checkpoints")
        trainer.run(examples, mixture.dev, tokenizer)
        path = finish(trainer.model, mixture.dev, TOKENIZER, Path(folder) / "model", Path(folder))
        ids = np.array([tokenizer.encode(text).ids[:8] for text in data.DEMONSTRATION], dtype=np.int64)
        shapes = [list(tensor.shape) for tensor in metrics.onnx_predict(path)(ids, np.ones_like(ids))]
    wanted = [[2, 3], [2, len(ASPECTS), 4], [2, len(DEMANDS), 2], [2, 8, len(EVIDENCE_LABELS)]]
    if shapes != wanted:
        raise SystemExit(f"The exported model answers with shapes {shapes}, not {wanted}.")
    if not trainer.losses[-1] < 0.9 * trainer.losses[0]:
        raise SystemExit(f"The loss did not go down: {trainer.losses[0]:.3f} -> {trainer.losses[-1]:.3f}.")
    say(f"Smoke run passed: loss {trainer.losses[0]:.3f} -> {trainer.losses[-1]:.3f}, output shapes {shapes}.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny model on the repository's texts, a minute")
    parser.add_argument("--base", type=Path, default=data.ROOT.parent / "shared" / "weights" / "me5-small-zhen-fp16")
    parser.add_argument("--out", type=Path, default=data.ROOT / "build" / "checkpoints", help="where states are kept")
    parser.add_argument("--target", type=Path, default=REPOSITORY_MODEL, help="where the exported model goes")
    parser.add_argument("--minutes", type=float, default=40.0, help="budget of training time")
    parser.add_argument("--rows", type=int, default=90_000, help="budget of training rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="one per real core")
    chosen = parser.parse_args(arguments)
    torch.manual_seed(chosen.seed)
    torch.set_num_threads(chosen.threads)
    if chosen.smoke:
        smoke(Plan(rows=20_000, minutes=1.0, rate=3e-3, head_rate=5e-3, frozen=0, seed=chosen.seed))
    else:
        plan = Plan(rows=chosen.rows, minutes=chosen.minutes, seed=chosen.seed)
        full(chosen.base, chosen.out, plan, chosen.target)


if __name__ == "__main__":
    main()
