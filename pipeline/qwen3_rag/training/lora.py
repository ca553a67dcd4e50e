"""Low-rank adapters on a frozen model, saved in peft's format.

peft computes its adapters in float32 under autocast, which is several times slower on a CPU. Here the adapter weights
are float32 and the arithmetic uses the base's type.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

__all__ = ["PROJECTIONS", "LoraLinear", "add_adapters", "save_adapter"]

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoraLinear(nn.Module):
    """x W + (alpha / rank) x A B with W frozen (Hu et al. 2021, arXiv:2106.09685)."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.empty(rank, base.in_features, dtype=torch.float32))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, dtype=torch.float32))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The base's output plus the adapter's, in the dtype of `x`."""
        flat = x.view(-1, x.shape[-1])
        low = flat @ self.down.to(x.dtype).T
        full = torch.addmm(self.base(flat), low, self.up.to(x.dtype).T, alpha=self.scale)
        return full.view(*x.shape[:-1], -1)


def add_adapters(model: nn.Module, rank: int, alpha: float) -> list[nn.Parameter]:
    """Freeze the model, add an adapter to every projection, and return the trainable parameters."""
    model.requires_grad_(False)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if name in PROJECTIONS and isinstance(child, nn.Linear):
                setattr(parent, name, LoraLinear(child, rank, alpha))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def save_adapter(model: nn.Module, folder: Path, rank: int, alpha: float, base_name: str) -> None:
    """Write `adapter_model.safetensors` (bf16) and `adapter_config.json` for `peft.PeftModel.from_pretrained`."""
    factors = dict(_factors(model))
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(PROJECTIONS),
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "adapter_model.safetensors"
    save_file(factors, path, metadata={"format": "pt"})
    # safetensors creates files that only their owner can read; this one ships with the package.
    path.chmod(0o644)
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _factors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            # torch.compile adds `_orig_mod` to the names.
            key = f"base_model.model.{name.replace('_orig_mod.', '')}"
            yield f"{key}.lora_A.weight", module.down.detach().bfloat16().contiguous()
            yield f"{key}.lora_B.weight", module.up.detach().bfloat16().contiguous()
