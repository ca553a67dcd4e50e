"""SmolLM2's decoder with low-rank adapters, made for one thing: training on a query's candidates in one row of tokens.

A row holds what the candidates share (system text, instruction, query) once, then each candidate, which attends to the
shared tokens and to itself at the positions that it would have alone: so its score is the score that it gets alone.
The weights are frozen in bf16 and joined (q, k and v; gate and up), adapters are float32 masters, and the work between
products is compiled. `tests/recipe/test_body.py` compares with the model of transformers.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import pad, silu

__all__ = ["AdaptedDecoder", "PackedList", "pack_list"]

Tensor = torch.Tensor
# A joined product: its name, and the projections in it.
JOINED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


@dataclass(frozen=True)
class PackedList:
    """One row: the shared tokens, then the tokens of each candidate.

    Attributes:
        ids: Token ids, shape (tokens,).
        positions: Position of each token in its own sequence, shape (tokens,).
        lengths: Number of shared tokens, then of each candidate's tokens.
    """

    ids: Tensor
    positions: Tensor
    lengths: tuple[int, ...]

    @property
    def last(self) -> Tensor:
        """Index of each candidate's last token, shape (candidates,)."""
        return torch.tensor(self.lengths).cumsum(0)[1:] - 1


def pack_list(shared: Sequence[int], candidates: Sequence[Sequence[int]]) -> PackedList:
    """Concatenate the shared tokens and all candidates into one row."""
    lengths = (len(shared), *map(len, candidates))
    ids = torch.tensor([token for part in (shared, *candidates) for token in part])
    own = [torch.arange(length) + len(shared) for length in lengths[1:]]
    return PackedList(ids, torch.cat([torch.arange(len(shared)), *own]), lengths)


class Adapted(nn.Module):
    """Projections of the same input, joined: x W + scale x A B for each (Hu et al. 2021, arXiv:2106.09685)."""

    def __init__(self, weights: Sequence[Tensor], rank: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", torch.cat(list(weights)).to(dtype))
        inputs = weights[0].shape[1]
        self.down = nn.Parameter(torch.empty(rank * len(weights), inputs))
        self.ups = nn.ParameterList([nn.Parameter(torch.zeros(len(weight), rank)) for weight in weights])
        for part in torch.split(self.down, rank):
            nn.init.kaiming_uniform_(part, a=math.sqrt(5))

    def factors(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Weight, down and up matrices in the weight's type."""
        weight: Tensor = self.get_buffer("weight")
        return weight, self.down.to(weight.dtype), [up.to(weight.dtype) for up in self.ups]


class AdaptedDecoder(nn.Module):
    """The decoder's layers and final norm, with adapters on all seven projections.

    Args:
        config: Sizes, as transformers names them.
        weights: Tensors by transformers' names.
        rank: Rank of each adapter.
        alpha: The adapters are multiplied by alpha / rank.
        dtype: Type of weights and products.
        compiled: Compile the work between products; needs a C++ compiler.
    """

    def __init__(
        self,
        config: Any,
        weights: dict[str, Tensor],
        rank: int,
        alpha: float,
        dtype: torch.dtype = torch.bfloat16,
        compiled: bool = True,
    ) -> None:
        super().__init__()
        self.rank, self.alpha, self.dtype = rank, alpha, dtype
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_size = config.hidden_size // self.heads
        self.theta, self.eps = float(config.rope_parameters["rope_theta"]), float(config.rms_norm_eps)
        self.embedding = weights["model.embed_tokens.weight"].to(dtype)
        self.final_norm = weights["model.norm.weight"].to(dtype)
        self.norms: list[list[Tensor]] = []
        self.layers: list[dict[str, Adapted]] = []
        for number in range(config.num_hidden_layers):
            layer = {
                name.removeprefix(f"model.layers.{number}."): value
                for name, value in weights.items()
                if name.startswith(f"model.layers.{number}.")
            }
            self.norms.append([layer[f"{name}_layernorm.weight"].to(dtype) for name in ("input", "post_attention")])
            self.layers.append(
                {
                    joined: Adapted([layer[f"{name}.weight"] for name in names], rank, dtype)
                    for joined, names in JOINED.items()
                }
            )
        self.adapted = nn.ModuleList(part for layer in self.layers for part in layer.values())
        head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
        self.head = head.float()
        wrap = (lambda f: torch.compile(f, dynamic=True, fullgraph=True)) if compiled else (lambda f: f)
        self.before, self.attend, self.after = wrap(_before), wrap(_attend), wrap(_after)

    def forward(self, packed: PackedList) -> Tensor:
        """Final states of each candidate's last token: (candidates, hidden), float32."""
        x = self.embedding[packed.ids]
        cos, sin = self._rotation(packed.positions)
        scale = self.alpha / self.rank
        shared, *own = packed.lengths
        for (norm, next_norm), layer in zip(self.norms, self.layers, strict=True):
            states = self.before(x, norm, self.eps, cos, sin, layer["qkv"].factors(), scale, self.head_size)
            q, k, v = (part.transpose(0, 1) for part in states)
            q = q.unflatten(0, (self.kv_heads, -1))
            first = _causal_attention(q[:, :, :shared], k[:, :shared], v[:, :shared])
            rest = self.attend(
                *(_side_by_side(part[..., shared:, :], own) for part in (q, k, v)), k[:, :shared], v[:, :shared]
            )
            parts = [first, *(part[..., :n, :] for part, n in zip(rest.unbind(1), own, strict=True))]
            attended = torch.cat(parts, 2).flatten(0, 1).transpose(0, 1).flatten(1)
            x = self.after(
                x, attended, next_norm, self.eps, *(layer[name].factors() for name in ("o", "gate_up", "down")), scale
            )
        return _normalised(x[packed.last], self.final_norm, self.eps).float()

    def log_odds(self, packed: PackedList, yes: int, no: int) -> Tensor:
        """Log-odds of yes against no for each candidate: float32 (candidates,)."""
        states: Tensor = self(packed)
        return states @ (self.head[yes] - self.head[no])

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        frequencies = self.theta ** -(torch.arange(0, self.head_size, 2) / self.head_size)
        angles = torch.outer(positions.float(), frequencies)[:, None]
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)

    def factors(self) -> Iterator[tuple[str, Tensor]]:
        """Adapters by peft's names, in bf16."""
        for number, layer in enumerate(self.layers):
            for joined, names in JOINED.items():
                adapted = layer[joined]
                for name, down, up in zip(names, torch.split(adapted.down, self.rank), adapted.ups, strict=True):
                    key = f"base_model.model.model.layers.{number}.{name}"
                    yield f"{key}.lora_A.weight", down
                    yield f"{key}.lora_B.weight", up

    def save(self, folder: Path, base_name: str) -> None:
        """Write `adapter_model.safetensors` (bf16) and `adapter_config.json` for `peft.PeftModel.from_pretrained`."""
        settings = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_name,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": sorted(name.rpartition(".")[2] for names in JOINED.values() for name in names),
            "inference_mode": True,
        }
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "adapter_model.safetensors"
        tensors = {name: value.detach().bfloat16().contiguous() for name, value in self.factors()}
        save_file(tensors, path, metadata={"format": "pt"})
        # safetensors creates files that only their owner can read; this one ships with the package.
        path.chmod(0o644)
        (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Read the adapters that `save` wrote."""
        stored = load_file(folder / "adapter_model.safetensors")
        for name, value in self.factors():
            value.copy_(stored[name].float())


def _normalised(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    values = x.float()
    values = values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + eps)
    return values.to(x.dtype) * weight


def _products(x: Tensor, factors: tuple[Tensor, Tensor, list[Tensor]], scale: float) -> list[Tensor]:
    weight, down, ups = factors
    base = torch.split(x @ weight.T, [len(up) for up in ups], -1)
    low = torch.split(x @ down.T, len(down) // len(ups), -1)
    return [full + scale * (part @ up.T) for full, part, up in zip(base, low, ups, strict=True)]


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    # Heads stay behind tokens here: in the order of attention, the compiled backward pass is ten times slower.
    left, right = x.chunk(2, -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


def _before(
    x: Tensor, norm: Tensor, eps: float, cos: Tensor, sin: Tensor, qkv: Any, scale: float, size: int
) -> list[Tensor]:
    """Queries, scaled, keys and values, each (tokens, heads, head)."""
    q, k, v = (part.view(len(x), -1, size) for part in _products(_normalised(x, norm, eps), qkv, scale))
    return [_rotated(q, cos, sin) * size**-0.5, _rotated(k, cos, sin), v]


def _after(
    x: Tensor, attended: Tensor, norm: Tensor, eps: float, o: Any, gate_up: Any, down: Any, scale: float
) -> Tensor:
    x = x + _products(attended, o, scale)[0]
    gate, up = _products(_normalised(x, norm, eps), gate_up, scale)
    return x + _products(silu(gate) * up, down, scale)[0]


def _causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Of the shared tokens among themselves: (kv heads, group, tokens, head)."""
    return _causal(q @ k[:, None].mT).softmax(-1) @ v[:, None]


def _attend(q: Tensor, k: Tensor, v: Tensor, shared_k: Tensor, shared_v: Tensor) -> Tensor:
    """Of candidates, (kv heads, candidates, group, tokens, head), to the shared tokens and to themselves."""
    to_shared = (q.flatten(1, 3) @ shared_k.mT).view(*q.shape[:4], -1)
    to_own = _causal((q.flatten(2, 3) @ k.mT).view(*q.shape[:4], -1))
    largest = torch.maximum(to_shared.amax(-1, keepdim=True), to_own.amax(-1, keepdim=True)).detach()
    to_shared, to_own = (to_shared - largest).exp(), (to_own - largest).exp()
    total = to_shared.float().sum(-1, keepdim=True) + to_own.float().sum(-1, keepdim=True)
    values = (to_shared.flatten(1, 3) @ shared_v).view(q.shape) + (to_own.flatten(2, 3) @ v).view(q.shape)
    return (values / total).to(q.dtype)


def _causal(scores: Tensor) -> Tensor:
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(hidden, torch.finfo(scores.dtype).min)


def _side_by_side(x: Tensor, lengths: list[int]) -> Tensor:
    # Padding follows each candidate's tokens, where the causal mask hides it. Indexing would be slower.
    longest = max(lengths)
    return torch.stack([pad(part, (0, 0, 0, longest - part.shape[-2])) for part in torch.split(x, lengths, -2)], 1)
