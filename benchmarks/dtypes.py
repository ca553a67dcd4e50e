"""Products of the 0.6B's layer shapes in float32, bfloat16 and 8 bits on this CPU: what `dtype="auto"` should be.

python benchmarks/dtypes.py        # a minute; results go to results/dtypes.json, by processor
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from qwen3_rag.models.engine.linear import Int8Linear, PackedLinear, quantise
from serving import processor

OUT = Path(__file__).parent / "results/dtypes.json"
SHAPES = ((32, 1024, 3072), (2048, 1024, 3072), (2048, 3072, 1024))  # rows, inputs, outputs
COPIES = 8  # of the weights, so that few rows read them from memory, as in a model
REPEATS = 12


def main() -> None:
    """Measure, print and save."""
    results = json.loads(OUT.read_text()) if OUT.exists() else {}
    rows = {f"{m}x{k}x{n}": measured(m, k, n) for m, k, n in SHAPES}
    name = f"{processor()}, {os.cpu_count()} cores, AMX: {'yes' if torch.cpu._is_amx_tile_supported() else 'no'}"
    results[name] = {"date": time.strftime("%Y-%m-%d"), "GFLOP/s": rows}
    OUT.write_text(json.dumps(results, indent=1) + "\n")
    print(name, json.dumps(rows, indent=1))


def measured(rows: int, inputs: int, outputs: int) -> dict[str, int]:
    """GFLOP/s of each type, medians; the types take turns."""
    plain = [torch.nn.Linear(inputs, outputs, bias=False) for _ in range(COPIES)]
    packed = [PackedLinear(layer.bfloat16()) for layer in map(_copy, plain)]
    eight = [Int8Linear(layer) for layer in plain]
    x = torch.randn(rows, inputs)
    low, quantised = x.bfloat16(), quantise(x)[0]
    products: dict[str, Callable[[int], object]] = {
        "float32": lambda i: plain[i](x),
        "bfloat16": lambda i: packed[i].product(low),
        "int8": lambda i: eight[i].product(quantised),
    }
    seconds: dict[str, list[float]] = {name: [] for name in products}
    with torch.inference_mode():
        for _ in range(REPEATS + 1):
            for name, product in products.items():
                began = time.perf_counter()
                for i in range(COPIES):
                    product(i)
                seconds[name].append((time.perf_counter() - began) / COPIES)
    work = 2e-9 * rows * inputs * outputs
    return {name: round(work / statistics.median(values[1:])) for name, values in seconds.items()}


def _copy(layer: torch.nn.Linear) -> torch.nn.Linear:
    copy = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
    copy.load_state_dict(layer.state_dict())
    return copy


if __name__ == "__main__":
    main()
