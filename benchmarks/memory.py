"""Memory that the Qwen3 models take: their weights, and with --tokenizer what reading candidates adds to them.

    python benchmarks/memory.py                                   # weights, from the architectures alone
    python benchmarks/memory.py --tokenizer FOLDER --only 1x32000 # a model of the 0.6B's shape with random weights

The architectures are those of the official configurations. Layers work one after another, so four of them need what
28 do, in a seventh of the time.
"""

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

SIZES = {
    "0.6B": {"hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072, "num_attention_heads": 16},
    "4B": {"hidden_size": 2560, "num_hidden_layers": 36, "intermediate_size": 9728, "num_attention_heads": 32},
    "8B": {"hidden_size": 4096, "num_hidden_layers": 36, "intermediate_size": 12288, "num_attention_heads": 32},
}


CASES = ("1000x500", "1x32000", "100x8000")  # candidates x tokens
MIB = 1 << 20


def weights() -> None:
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


def make_model(folder: Path, tokenizer: Path, layers: int) -> None:
    """A reranker of the 0.6B's shape with random weights."""
    shape = SIZES["0.6B"] | {"num_hidden_layers": layers}
    config = Qwen3Config(
        vocab_size=151_669, num_key_value_heads=8, head_dim=128, max_position_embeddings=40_960,
        tie_word_embeddings=True, **shape,
    )  # fmt: skip
    torch.manual_seed(0)
    Qwen3ForCausalLM._from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / file, folder)


def resident() -> int:
    """Bytes of this process in memory (Linux)."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def read_candidates(model: Path, case: str) -> None:
    """Read so many candidates of so many tokens, and print by how much the memory rose at the most."""
    from qwen3_rag import Reranker

    count, tokens = map(int, case.split("x"))
    lines = (Path(__file__).parents[1] / "data/demo/corpus.jsonl").read_text("utf-8").splitlines()
    text = "\n".join(json.loads(line)["text"] for line in lines)
    once = text.split()
    words = once * (2 + tokens // len(once))
    reranker = Reranker(str(model), max_length=min(32_768, tokens + 120))
    loaded = reranker.loaded
    # Two tokens a word and more: what is too much is cut, to the very length.
    documents = [" ".join(words[i * 997 % len(once) :][:tokens]) for i in range(count)]
    before, most, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.02):
            most = max(most, resident())

    watching = threading.Thread(target=watch)
    watching.start()
    began = time.perf_counter()
    reranker.log_odds("what is heat conduction?", documents)
    seconds = time.perf_counter() - began
    done.set()
    watching.join()
    print(
        f"{count} candidates of {tokens} tokens: {seconds:.0f} s, {before / MIB:.0f} MiB before, "
        f"{(most - before) / MIB:.0f} MiB more at the most ({loaded.runs_on})",
        flush=True,
    )


def main() -> None:
    """Print the table of weights, or measure."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tokenizer", type=Path, help="folder with Qwen3's tokenizer.json")
    arguments.add_argument("--only", choices=CASES, help="one case instead of all")
    arguments.add_argument("--layers", type=int, default=4)
    arguments.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.model is not None:
        read_candidates(options.model, options.only)
    elif options.tokenizer is None:
        weights()
    else:
        with TemporaryDirectory() as folder:
            make_model(Path(folder), options.tokenizer, options.layers)
            for case in [options.only] if options.only else CASES:
                # Each in a separate process: memory that was released still counts.
                command = [sys.executable, __file__, "--model", folder, "--only", case]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
