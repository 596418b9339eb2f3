"""The trainer: ``python -m training.train`` for the shipped model, ``--smoke`` for a tiny one in a minute or two.

A run is one file in ``training/configs``. It has a budget of rows and of minutes of its own computing time; whichever
is used up faster drives the learning rate down to zero, so a run on a busy machine, or one that is paused, still ends
well annealed. Every few minutes the state is saved, and a run started again with the same ``--out`` goes on from there.
At the end the model is weighed against its wide part and calibrated on dev rows, exported as int8 and given the
thresholds chosen on the exported model's own dev answers.
"""

import argparse
import copy
import math
import os
import random
import shutil
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from serving.export import add_strangeness, export, export_half, set_metadata
from serving.labels import ASPECTS, DEMANDS, EVIDENCE_LABELS
from training import calibrate, data, metrics, probes
from training.batches import MAX_LENGTH, Encoded, batches, collate, encode, load_tokenizer, padded, trainable
from training.disturb import with_disturbed
from training.losses import agreement, distilled, task_losses, total
from training.model import Logits, RadarModel
from training.restore import restored
from training.wide import fit

REPOSITORY_MODEL: Final = data.ROOT / "model_repo" / "demand" / "1"
SMALL_MODEL: Final = data.ROOT / "model_repo" / "demand_small" / "1"
TOKENIZER: Final = REPOSITORY_MODEL / "tokenizer.json"
CONFIGS: Final = Path(__file__).parent / "configs"
BASE: Final = data.ROOT.parent / "shared" / "weights" / "me5-small-zhen-fp16"
WARM_UP: Final = 0.04
SAVE_SECONDS: Final = 300
REPORT_BATCHES: Final = 50
CHECK_ROWS: Final = 300
#: Weight of :meth:`Trainer._unlike_plain` beside the losses of the labels.
PLAIN_WEIGHT: Final = 2.0
#: Whether this CPU computes in bf16; emulated, a step takes seven times as long as in fp32.
HALVES: Final = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
#: Texts of each set from which strangeness is measured, of utterances five times as many: chats are like them.
FAMILIAR: Final = 300
#: Sets whose texts are not shop language as customers write it.
NOT_HOME: Final = {"clinc", "disturbed", "dialects", "joined"}


@dataclass(frozen=True)
class Plan:
    """One run: what it may spend, how it learns, and how its sets are mixed. The fields of a file in configs/."""

    version: str  #: the model's name, by which alerts and cards call it
    shares: Mapping[str, int]  #: rows of each set in one pass
    rows: int
    minutes: float  #: computing time of the training thread
    rate: float = 1e-4
    head_rate: float = 4e-3
    size: int = 32
    frozen: int = 4  #: lowest encoder layers that stay as they are; the embeddings are the first
    length: int = MAX_LENGTH
    drop: Sequence[int] = ()  #: encoder layers of the teacher that the model does without
    adapter: str = ""  #: "lora" or "dora": train low-rank updates of the encoder instead of its weights
    rank: int = 16  #: of an adapter
    kept: float = 0.0  #: share of the weights of --start in those at the end
    patience: int = 0  #: checks without a better dev score after which the run ends and takes the best state; 0: never
    seed: int = 0

    @classmethod
    def read(cls, path: Path, **changes: Any) -> "Plan":
        """The plan in a TOML file; ``changes`` (where not None) take precedence."""
        found = tomllib.loads(path.read_text(encoding="utf-8")) | {k: v for k, v in changes.items() if v is not None}
        if unknown := found.keys() - {field.name for field in fields(cls)}:
            raise SystemExit(f"{path}: unknown {', '.join(sorted(unknown))}; see Plan in training/train.py.")
        return cls(**found)


class Trainer:
    """One run: model, optimiser, progress. ``losses`` holds the mean total loss of every reported stretch.

    With a ``teacher`` the model also learns what that one says of each text, labelled or not.
    """

    def __init__(
        self, model: RadarModel, plan: Plan, out: Path, until: float = math.inf, teacher: RadarModel | None = None
    ) -> None:
        self.model, self.plan, self.out, self.teacher = model, plan, out, teacher
        self._until, self._began, self._from = until, time.time(), 0.0
        self.rows, self.seconds, self.passes = 0, 0.0, 0
        self.losses: list[float] = []
        self.scores: list[float] = []
        self.model.freeze(plan.frozen)
        if plan.adapter:
            self.model.adapt(plan.adapter, plan.rank)
        encoder = [p for p in model.encoder.parameters() if p.requires_grad]
        heads = [p for name, p in model.named_parameters() if not name.startswith(("encoder.", "wide."))]
        self.optimiser = torch.optim.AdamW(
            [{"params": encoder, "peak": plan.rate}, {"params": heads, "peak": plan.head_rate}],
            weight_decay=0.01, fused=True,
        )  # fmt: skip
        self._board = _board(out)

    @property
    def progress(self) -> float:
        """Share of the budget used: of rows, of minutes or of the time until the appointed end, the furthest."""
        waited = (time.time() - self._began) / (self._until - self._began) if self._began < self._until else 1.0
        appointed = self._from + (1 - self._from) * waited
        return max(self.rows / self.plan.rows, self.seconds / (60 * self.plan.minutes), appointed)

    @property
    def stale(self) -> bool:
        """Whether the last ``patience`` checks brought nothing better."""
        since = len(self.scores) - 1 - int(np.argmax(self.scores)) if self.scores else 0
        return 0 < self.plan.patience <= since

    def run(self, mixture: data.Mixture, tokenizer: Tokenizer) -> None:
        """Train until the budget is used up, or until ``patience`` is lost."""
        dev = random.Random(0).sample(mixture.dev, min(CHECK_ROWS, len(mixture.dev)))
        saved = self.seconds
        recent: list[dict[str, Tensor]] = []
        self.model.train()
        while self.progress < 1 and not self.stale:
            examples = trainable(encode(mixture.one_pass(self.plan.shares, self.passes), tokenizer))
            for chosen in batches(examples, self.plan.size, self.plan.seed + self.passes):
                start = time.thread_time()
                recent.append(self._step(chosen))
                self.rows += len(chosen)
                self.seconds += time.thread_time() - start
                if len(recent) == REPORT_BATCHES:
                    self._report(recent)
                    recent = []
                if self.seconds - saved > SAVE_SECONDS:
                    saved = self.seconds
                    self._check(dev, tokenizer)
                    self.save()
                if self.progress >= 1 or self.stale:
                    break
            self.passes += 1
        if recent:
            self._report(recent)
        self.save()
        if self.stale:
            self.model.load_state_dict(torch.load(self.out / "best.pt", weights_only=True))

    def _step(self, chosen: Sequence[Encoded]) -> dict[str, Tensor]:
        warmed = min(1.0, self.progress / WARM_UP)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * warmed * max(0.0, 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress))))
        batch = collate(chosen)
        logits = _answer(self.model, batch.ids, batch.mask)
        with torch.no_grad():
            taught = _answer(self.teacher, batch.ids, batch.mask) if self.teacher else None
        losses = task_losses(logits, batch)
        loss = total(losses)
        if taught:
            loss = loss + total(distilled(logits, taught, batch.mask))
        loss = loss + self._unlike_plain(logits, chosen)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        return {task: loss.detach() for task, loss in losses.items()}

    def _unlike_plain(self, logits: Logits, chosen: Sequence[Encoded]) -> Tensor:
        """How far the answers to disturbed texts are from those to their plain wordings, which stand still (Xie et al.,
        "Unsupervised Data Augmentation for Consistency Training", NeurIPS 2020)."""
        places = [i for i, one in enumerate(chosen) if one.plain]
        if not places:
            return torch.tensor(0.0)
        self.model.eval()
        with torch.no_grad():
            plain = _answer(self.model, *padded([one.plain for one in chosen if one.plain]))
        self.model.train()
        ours = Logits(*(scores[places] for scores in logits))
        return PLAIN_WEIGHT * total(agreement(ours, plain)) * (len(places) / len(chosen))

    def _report(self, recent: Sequence[dict[str, Tensor]]) -> None:
        means = {task: float(torch.stack([losses[task] for losses in recent]).mean()) for task in recent[0]}
        self.losses.append(float(np.mean([total(losses) for losses in recent])))
        parts = " ".join(f"{task} {loss:.3f}" for task, loss in means.items())
        speed = self.rows / max(self.seconds, 1e-9)
        say(f"{self.progress:6.1%} {self.rows:6d} rows {speed:5.1f}/s  loss {self.losses[-1]:.3f}: {parts}")
        self._log({f"loss/{task}": loss for task, loss in means.items()})

    def _check(self, dev: Sequence[data.Row], tokenizer: Tokenizer) -> None:
        self.model.eval()
        found = metrics.answers(dev, tokenizer, metrics.torch_predict(self.model))
        self.model.train()
        figures = {
            "sentiment": metrics.sentiment_accuracy(found, {}), "aspects": metrics.aspect_f1(found, {}),
            "demands": metrics.demand_f1(found, {}), "evidence": metrics.evidence_f1(found),
        }  # fmt: skip
        say("       dev: " + "  ".join(f"{name} {value:.3f}" for name, value in figures.items()))
        self._log({f"dev/{name}": value for name, value in figures.items()})
        self.scores.append(float(np.nanmean(list(figures.values()))))
        if self.plan.patience and self.scores[-1] == max(self.scores):
            self.out.mkdir(parents=True, exist_ok=True)
            torch.save(self.model.state_dict(), self.out / "best.pt")

    def _log(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items() if self._board else ():
            self._board.add_scalar(name, value, self.rows)

    def save(self) -> None:
        """Write the state beside the last one and swap, so that a kill never leaves half a file."""
        self.out.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "rows": self.rows,
            "seconds": self.seconds, "passes": self.passes, "losses": self.losses, "scores": self.scores,
        }  # fmt: skip
        torch.save(state, self.out / "last.part")
        (self.out / "last.part").replace(self.out / "last.pt")

    def resume(self) -> None:
        """Take up the state in ``out``, if there is one; the pass under way is left for the next."""
        path = self.out / "last.pt"
        if not path.is_file():
            return
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.rows, self.seconds, self.losses, self.scores = (
            state[name] for name in ("rows", "seconds", "losses", "scores")
        )
        self.passes = state["passes"] + 1
        self._from = self.progress
        say(f"Going on from {path} at {self.progress:.0%}.")


def _answer(model: RadarModel, ids: Tensor, mask: Tensor) -> Logits:
    """The logits in fp32, computed in bf16 where the CPU can."""
    with torch.autocast("cpu", torch.bfloat16, enabled=HALVES):
        return Logits(*(scores.float() for scores in model(ids, mask)))


def _board(out: Path) -> Any:
    """A TensorBoard writer, where the package is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "board"))


def say(line: str) -> None:
    """Print at once, also into a log file."""
    print(line, flush=True)


def finish(
    model: RadarModel, version: str, mixture: data.Mixture, tokenizer_path: Path, target: Path, out: Path
) -> Path:
    """Weigh the two parts and calibrate on dev rows, export, choose thresholds on the exported model, store them in it.

    Only what is complete goes to ``target``. The fp16 model for GPUs, with the same thresholds, stays in ``out``.
    """
    tokenizer, dev = load_tokenizer(tokenizer_path), mixture.dev
    model.eval()
    model.uncalibrate()
    deep, wide = (
        metrics.answers(dev, tokenizer, predict(model)) for predict in (metrics.torch_predict, metrics.wide_predict)
    )
    temperatures, weights = calibrate.weigh(deep, wide)
    model.temperature.copy_(torch.tensor(temperatures))
    model.wide_weight.copy_(torch.tensor(weights))
    facts: dict[str, Any] = {"version": version, "languages": ["zh", "en"], "max_length": MAX_LENGTH}
    made = export(model, tokenizer_path, out / "export", facts)
    chosen = calibrate.thresholds(metrics.served(made, tokenizer)(dev))
    set_metadata(made, facts | {"thresholds": chosen})
    half = export_half(model, out / "model.fp16.onnx", facts | {"thresholds": chosen})
    know_home([made, half], mixture, tokenizer)
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made.with_name("tokenizer.json"), target / "tokenizer.json")
    shutil.copyfile(made, target / "model.part")
    path = (target / "model.part").replace(target / "model.onnx")
    say(f"Temperatures {_rounded(temperatures)}, weights of the wide part {_rounded(weights)}; wrote {path}")
    return path


def know_home(paths: Sequence[Path], mixture: data.Mixture, tokenizer: Tokenizer) -> None:
    """Give the exported forms of a model, int8 first, the output ``strangeness``, and say how it tells the probes."""
    embed, chooser = metrics.onnx_embed(paths[0], tokenizer), random.Random(0)
    most = dict.fromkeys(sorted(mixture.sets.keys() - NOT_HOME), FAMILIAR) | {"utterances": 5 * FAMILIAR}
    sets = {name: mixture.sets[name] for name in most}
    familiar = [row for name, rows in sets.items() for row in chooser.sample(rows, min(len(rows), most[name]))]
    dev: dict[str, list[str]] = {}
    for row in mixture.dev:
        dev.setdefault(row.source.split("/")[0], []).append(row.text)
    known = [embed(texts) for name, texts in dev.items() if name not in NOT_HOME]
    middle, scale = calibrate.surroundings(embed([row.text for row in familiar]), known)
    for path in paths:
        add_strangeness(path, middle, scale)
    away = embed([data.clean(one.text) or one.text for one in probes.foreign()])
    share = (calibrate.strangeness(away, middle, scale) > 1).mean()
    say(f"Strangeness is measured from {len(familiar)} texts; {share:.0%} of the foreign probes are beyond 1.")


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 2) for value in values]


def full(
    base: Path,
    out: Path,
    plan: Plan,
    target: Path,
    until: float = math.inf,
    start: Path | None = None,
    teacher: Path | None = None,
) -> None:
    """The shipped model; ``until`` is the Unix time at which training is over at the latest.

    ``start`` and ``teacher`` are states of earlier runs, or exported models. A model of fewer layers than its teacher
    begins with the teacher's weights where ``start`` gives none, and ends with the teacher's wide part.
    """
    if plan.kept and not start:
        raise SystemExit("A plan that keeps weights starts from a trained model: name it with --start.")
    if bool(plan.drop) != bool(teacher):
        raise SystemExit("Plans that drop layers, and only those, have a teacher: name the full model with --teacher.")
    say("Reading the data sets ...")
    mixture = with_disturbed(data.mixture(data.data_folder()))
    if unknown := [name for name in plan.shares if not mixture.named(name)]:
        raise SystemExit(f"The plan's shares name {', '.join(unknown)}, but there are {', '.join(mixture.names())}.")
    tokenizer = load_tokenizer(base / "tokenizer.json", plan.length)
    say(f"{len(mixture.train)} training rows, {len(mixture.dev)} dev rows, {mixture.dropped} left out as leaks.")
    model = RadarModel.from_base(base)
    taught_by = None
    if teacher:
        model.load_weights(_weights(teacher))
        taught_by = copy.deepcopy(model).eval().requires_grad_(False)
        model.drop(plan.drop)
    if start:
        model.load_weights(_weights(start))
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()} if plan.kept else {}
    trainer = Trainer(model, plan, out, until, taught_by)
    trainer.resume()
    trainer.run(mixture, tokenizer)
    trainer.model.merge()
    if plan.kept:
        trainer.model.blend(first, plan.kept)
    if taught_by:
        trainer.model.wide.load_state_dict(taught_by.wide.state_dict())
    else:
        say("Fitting the wide part ...")
        fit(trainer.model.wide, trainable(encode(mixture.train, tokenizer)), plan.seed)
    torch.save(trainer.model.state_dict(), out / "model.pt")
    finish(trainer.model, plan.version, mixture, base / "tokenizer.json", target, out)
    (out / "last.pt").replace(out / "ended.pt")  # the next run with this --out is a new one


def _weights(path: Path) -> dict[str, Tensor]:
    """Of an exported model, of the state of a run, or of the weights that it ended with."""
    if not path.is_file():
        raise SystemExit(f"There is no {path}: name a model.onnx, or the model.pt or last.pt of an earlier run.")
    if path.suffix == ".onnx":
        return restored(path)
    state: dict[str, Any] = torch.load(path, weights_only=True)
    weights: dict[str, Tensor] = state.get("model", state)
    return weights


def smoke(plan: Plan) -> None:
    """Train a tiny model on the repository's own texts, export it and read it back: the whole path, little skill."""
    tokenizer = load_tokenizer(TOKENIZER)
    mixture = with_disturbed(data.mixture(None))
    say(f"{len(mixture.train)} training rows from the repository, a model of two layers.")
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(RadarModel.tiny(tokenizer.get_vocab_size()), plan, Path(folder) / "checkpoints")
        trainer.run(mixture, tokenizer)
        trainer.model.merge()
        fit(trainer.model.wide, trainable(encode(mixture.sets["utterances"], tokenizer)), plan.seed)
        path = finish(trainer.model, plan.version, mixture, TOKENIZER, Path(folder) / "model", Path(folder))
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
    parser.add_argument("--config", type=Path, default=CONFIGS / "shipped.toml", help="the plan of the run")
    parser.add_argument("--base", type=Path, default=BASE, help="folder of an encoder in Hugging Face form")
    parser.add_argument("--start", type=Path, help="model.pt of an earlier run or an exported model.onnx to go on from")
    parser.add_argument("--teacher", type=Path, help="the full model, in either form, for a plan that drops layers")
    parser.add_argument("--out", type=Path, default=data.ROOT / "build" / "checkpoints", help="where states are kept")
    parser.add_argument("--target", type=Path, default=REPOSITORY_MODEL, help="where the exported model goes")
    parser.add_argument("--minutes", type=float, help="budget of computing time, instead of the plan's")
    parser.add_argument("--rows", type=int, help="budget of training rows, instead of the plan's")
    parser.add_argument("--until", help="local time, HH:MM, at which training is over at the latest")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="one per real core")
    chosen = parser.parse_args(arguments)
    config = CONFIGS / "smoke.toml" if chosen.smoke else chosen.config
    plan = Plan.read(config, minutes=chosen.minutes, rows=chosen.rows)
    torch.manual_seed(plan.seed)
    torch.set_num_threads(chosen.threads)
    if chosen.smoke:
        smoke(plan)
    else:
        full(chosen.base, chosen.out, plan, chosen.target, _moment(chosen.until), chosen.start, chosen.teacher)


def _moment(clock: str | None) -> float:
    """The next moment at which the local clock shows ``HH:MM``, as Unix time; infinity for None."""
    if clock is None:
        return math.inf
    now = datetime.now()
    moment = datetime.combine(now, datetime.strptime(clock, "%H:%M").time())
    return (moment if moment > now else moment + timedelta(days=1)).timestamp()


if __name__ == "__main__":
    main()
