"""Memory that the weights of the Qwen3 models take, from their architecture: no weights are needed.

Prints a Markdown table. The architectures are those of the official configurations.
"""

import torch
from transformers import Qwen3Config, Qwen3Model

SIZES = {
    "0.6B": {"hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072, "num_attention_heads": 16},
    "4B": {"hidden_size": 2560, "num_hidden_layers": 36, "intermediate_size": 9728, "num_attention_heads": 32},
    "8B": {"hidden_size": 4096, "num_hidden_layers": 36, "intermediate_size": 12288, "num_attention_heads": 32},
}


def main() -> None:
    """Build each decoder without memory for its weights, count them, and print bytes by type."""
    print("| size | dimensions | parameters | bfloat16, float16 | float32 |")
    print("|---|---|---|---|---|")
    for name, shape in SIZES.items():
        with torch.device("meta"):
            config = Qwen3Config(vocab_size=151_669, num_key_value_heads=8, head_dim=128, **shape)
            count = sum(weight.numel() for weight in Qwen3Model(config).parameters())
        gib = 1 << 30
        print(
            f"| {name} | {shape['hidden_size']:,} | {count / 1e9:.2f} billion "
            f"| {2 * count / gib:.1f} GiB | {4 * count / gib:.1f} GiB |"
        )


if __name__ == "__main__":
    main()
