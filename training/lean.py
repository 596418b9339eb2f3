"""The text model as it is exported: the same weights in few operators that ONNX Runtime is fast at, fp32 or int8.

The exporter would spell attention out in some sixty nodes a layer and hope that a fusion finds their pattern. Here the
encoder is written in the operators themselves: eleven nodes a layer, whatever the versions of torch and transformers.
In PyTorch each operator computes what ONNX Runtime does, its rounding included, so a lean model is tested as it is.

Shapes: B texts, T tokens, H hidden units.
"""

import copy
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertModel

from training.model import RadarModel

#: Largest int8 weight. CPUs without VNNI add two products in 16 bits: 2 × 255 × 64 is the most that they hold.
LARGEST: Final = 64
#: A channel that gets this many times as large as the median one is an outlier.
OUTLYING: Final = 6
#: How much of the difference between channels moves into the matrix (SmoothQuant, Xiao et al. 2023). On 400 dev rows
#: the mean distance of sentiment to fp32 was 0.0154 without and 0.0075 with it. With the second feed-forward matrices
#: alone it was 0.0183 at 0.5, 0.0092 at 0.75, 0.0107 at 0.9.
SMOOTHED: Final = 0.8
#: Magnitudes below it are taken for it, so that a channel that was never used has no say.
FAINT: Final = 1e-3


def lean(model: RadarModel) -> RadarModel:
    """A copy for export, in fp32. Encoders other than BERT stay as they are."""
    made = copy.deepcopy(model).eval()
    if isinstance(made.encoder, BertModel):
        made.encoder = LeanBert(made.encoder)
    return made


def int8(model: RadarModel, texts: Iterable[Sequence[int]]) -> RadarModel:
    """A copy of a lean model whose encoder and wide part have int8 matrices and tables; the heads stay fp32.

    ``texts`` are token ids of a hundred texts or so, from which is learnt how large each input of a matrix gets.
    """
    made = copy.deepcopy(model).requires_grad_(False)
    peaks = _peaks(made.encoder, texts)
    for name, part in list(made.encoder.named_modules()):
        parent, _, own = name.rpartition(".")
        replace = partial(made.encoder.get_submodule(parent).add_module, own)
        match part:
            case nn.Linear():
                replace(Int8Linear(part, peaks[name]))
            case nn.Embedding():
                replace(Int8Embedding(part))
            case Attention():
                replace(Int8Attention(part))
    for grams in (made.wide.feeling, made.wide.topics):
        grams.add_module("table", Int8Embedding(grams.table))
    return made


def _peaks(encoder: nn.Module, texts: Iterable[Sequence[int]]) -> dict[str, Tensor]:
    """The largest magnitude of each input channel, [F], of every linear part, by its name."""
    peaks: dict[str, Tensor] = {}
    hooks = []
    for name, part in encoder.named_modules():
        if isinstance(part, nn.Linear):

            def note(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                found = inputs[0].abs().flatten(0, -2).amax(0)
                peaks[name] = torch.maximum(peaks.get(name, found), found)

            hooks.append(part.register_forward_pre_hook(note))
    with torch.no_grad():
        for ids in texts:
            encoder(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64))
    for hook in hooks:
        hook.remove()
    return peaks


class LeanBert(nn.Module):
    """A :class:`BertModel` without its pooler, for reading only."""

    def __init__(self, bert: BertModel) -> None:
        super().__init__()
        embeddings = bert.embeddings
        self.words = embeddings.word_embeddings
        first_type = embeddings.token_type_embeddings.weight[0]
        self.places = nn.Parameter(embeddings.position_embeddings.weight + first_type)
        self.norm = embeddings.LayerNorm
        self.layers = nn.ModuleList(_Layer(layer, bert.config.num_attention_heads) for layer in bert.encoder.layer)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor]:
        """int64 [B, T] twice -> states [B, T, H]."""
        states = self.norm(self.words(input_ids) + self.places[: input_ids.shape[1]])
        mask = attention_mask.int()
        for layer in self.layers:
            states = layer(states, mask)
        return (states,)


class _Layer(nn.Module):
    def __init__(self, layer: Any, heads: int) -> None:
        super().__init__()
        own, output = layer.attention.self, layer.attention.output
        self.attention = Attention(own.query, own.key, own.value, heads)
        self.mix, self.mix_norm = output.dense, output.LayerNorm
        self.widen, self.narrow, self.norm = layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        states = self.mix_norm(_run(_Sum, self.mix(self.attention(states, mask)), states))
        wide = _run(_Gelu, self.widen(states))
        out: Tensor = self.norm(_run(_Sum, self.narrow(wide), states))
        return out


class Attention(nn.Module):
    """Self-attention with its three projections as one matrix."""

    def __init__(self, query: nn.Linear, key: nn.Linear, value: nn.Linear, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(torch.cat([part.weight for part in (query, key, value)]).T.contiguous())
        self.bias = nn.Parameter(torch.cat([part.bias for part in (query, key, value)]))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """[B, T, H] and int32 [B, T] -> [B, T, H]."""
        return _run(_Attention, states, self.weight, self.bias, mask, self.heads)


class Int8Attention(nn.Module):
    """:class:`Attention` with an int8 matrix."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads, self.bias = attention.heads, attention.bias
        self.weight, self.scale, self.zero = _columns(attention.weight)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return _run(_Int8Attention, states, self.weight, self.bias, self.scale, mask, self.zero, self.heads)


class Int8Linear(nn.Module):
    """:class:`nn.Linear` with an int8 matrix, times what is put in, in 8 bits over the range of the moment.

    One step for a whole text drowns most of its input channels where a few have outliers. There ``peak`` [F], how large
    each channel gets, is evened out first, and the matrix makes up for it.
    """

    def __init__(self, linear: nn.Linear, peak: Tensor) -> None:
        super().__init__()
        self.bias = linear.bias
        weight = linear.weight.T
        self.smooth = None
        if peak.max() > OUTLYING * peak.median():
            smooth = weight.abs().amax(1).clamp(min=FAINT) ** (1 - SMOOTHED) / peak.clamp(min=FAINT) ** SMOOTHED
            self.smooth = nn.Parameter(smooth / smooth.max(), requires_grad=False)
            weight = weight / self.smooth[:, None]
        self.weight, self.scale, self.zero = _columns(weight)

    def forward(self, states: Tensor) -> Tensor:
        """[..., F] -> [..., K]."""
        states = states if self.smooth is None else states * self.smooth
        return _run(_Int8MatMul, states, self.weight, self.scale, self.zero, self.bias)


class Int8Embedding(nn.Module):
    """:class:`nn.Embedding` in int8, with a scale for each row."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        scale = embedding.weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        self.weight = nn.Parameter((embedding.weight / scale).round().to(torch.int8), requires_grad=False)
        self.scale = nn.Parameter(scale)

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [...] -> [..., H]."""
        return functional.embedding(ids, self.weight).float() * functional.embedding(ids, self.scale)


def _columns(weight: Tensor) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
    """[F, K] -> int8 matrix, scale [K] and zero point [K] (all 0)."""
    scale = weight.abs().amax(0).clamp(min=1e-12) / LARGEST
    kept = ((weight / scale).round().to(torch.int8).contiguous(), scale, torch.zeros(len(scale), dtype=torch.int8))
    return tuple(nn.Parameter(tensor, requires_grad=False) for tensor in kept)  # type: ignore[return-value]


def _quantised(states: Tensor) -> tuple[Tensor, Tensor]:
    """DynamicQuantizeLinear: whole numbers less their zero point, and the scale."""
    low, high = states.min().clamp(max=0), states.max().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=1e-12)
    zero = (-low / scale).round()
    return ((states / scale).round() + zero).clamp(0, 255) - zero, scale


def _attend(projected: Tensor, mask: Tensor, heads: int) -> Tensor:
    """[B, T, 3H] -> [B, T, H]."""
    texts, tokens, width = projected.shape
    query, key, value = projected.view(texts, tokens, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4)
    found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None].bool())
    return found.transpose(1, 2).flatten(2)


def _run(operator: type[torch.autograd.Function], *inputs: Any) -> Tensor:
    found: Tensor = operator.apply(*inputs)  # type: ignore[no-untyped-call]
    return found


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, states: Tensor, weight: Tensor, bias: Tensor, mask: Tensor, heads: int) -> Tensor:
        return _attend(states @ weight + bias, mask, heads)

    @staticmethod
    def symbolic(g: Any, states: Any, weight: Any, bias: Any, mask: Any, heads: int) -> Any:
        return g.op("com.microsoft::Attention", states, weight, bias, mask, num_heads_i=heads).setType(states.type())


class _Int8Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        _: Any, states: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, mask: Tensor, zero: Tensor, heads: int
    ) -> Tensor:
        whole, step = _quantised(states)
        return _attend(whole @ weight.float() * (step * scale) + bias, mask, heads)

    @staticmethod
    def symbolic(g: Any, states: Any, weight: Any, bias: Any, scale: Any, mask: Any, zero: Any, heads: int) -> Any:
        whole, step, middle = g.op("DynamicQuantizeLinear", states, outputs=3)
        inputs = whole, weight, bias, step, scale, mask, middle, zero
        return g.op("com.microsoft::QAttention", *inputs, num_heads_i=heads).setType(states.type())


class _Int8MatMul(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, states: Tensor, weight: Tensor, scale: Tensor, zero: Tensor, bias: Tensor) -> Tensor:
        whole, step = _quantised(states)
        return whole @ weight.float() * (step * scale) + bias

    @staticmethod
    def symbolic(g: Any, states: Any, weight: Any, scale: Any, zero: Any, bias: Any) -> Any:
        found = g.op("com.microsoft::DynamicQuantizeMatMul", states, weight, scale, zero, bias)
        return found.setType(bias.type().with_sizes([None, None, *bias.type().sizes()]))


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, states: Tensor) -> Tensor:
        return functional.gelu(states)

    @staticmethod
    def symbolic(g: Any, states: Any) -> Any:
        return g.op("com.microsoft::Gelu", states).setType(states.type())


class _Sum(torch.autograd.Function):
    """As "+", which ONNX Runtime would fuse with the norm after it: 73 µs for 36 tokens instead of 15."""

    @staticmethod
    def forward(_: Any, one: Tensor, other: Tensor) -> Tensor:
        return one + other

    @staticmethod
    def symbolic(g: Any, one: Any, other: Any) -> Any:
        return g.op("Sum", one, other).setType(one.type())
