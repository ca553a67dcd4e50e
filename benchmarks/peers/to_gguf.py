"""A Qwen3 reranker's checkpoint as a GGUF file with a yes/no classifier, which llama.cpp ranks by.

llama.cpp gives the softmax of the classifier's rows, and puts query and document into the template named "rerank".
"""

import json
from pathlib import Path
from typing import Any

import gguf
import torch
from common import PREFIX, SUFFIX
from gguf import GGMLQuantizationType as Kind
from safetensors import safe_open

NOT_QUANTIZED = ("_norm.weight", "cls.output.weight")


def vocabulary(writer: gguf.GGUFWriter, folder: Path, size: int) -> dict[str, int]:
    """Write the byte-level BPE of `tokenizer.json`; give the ids of its pieces."""
    layout = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    added = {token["content"]: token for token in layout["added_tokens"]}
    ids = layout["model"]["vocab"] | {content: token["id"] for content, token in added.items()}
    pieces, types = [f"[UNUSED{i}]" for i in range(size)], [gguf.TokenType.UNUSED] * size
    for piece, i in ids.items():
        control = gguf.TokenType.CONTROL if piece in added and added[piece]["special"] else gguf.TokenType.USER_DEFINED
        pieces[i], types[i] = piece, control if piece in added else gguf.TokenType.NORMAL
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in layout["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(pieces)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_pad_token_id(ids["<|endoftext|>"])
    writer.add_bos_token_id(ids["<|endoftext|>"])
    writer.add_add_bos_token(False)
    return ids


def shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """Write the architecture."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base((config.get("rope_parameters") or config)["rope_theta"])
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_classifier_output_labels(["yes", "no"])


def convert(folder: Path, target: Path, kind: str, instruction: str) -> None:
    """Write the checkpoint of `folder`, its matrices as `kind` ("bf16", "f16", "q8_0", …), to `target`."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    writer = gguf.GGUFWriter(target, "qwen3")
    shape(writer, config)
    ids = vocabulary(writer, folder, config["vocab_size"])
    body = f"<Instruct>: {instruction}\n<Query>: {{query}}\n<Document>: {{document}}"
    writer.add_chat_template([{"name": "rerank", "template": f"{PREFIX}{body}{SUFFIX}"}])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config["num_hidden_layers"])
    with safe_open(folder / "model.safetensors", "pt") as weights:
        tensors = {names.get_name(n, (".weight",)): weights.get_tensor(n) for n in weights.keys()}  # noqa: SIM118
    output = tensors.get("output.weight", tensors["token_embd.weight"])
    tensors["cls.output.weight"] = output[[ids["yes"], ids["no"]]]
    for name, tensor in tensors.items():
        tensor_kind = Kind.F32 if name.endswith(NOT_QUANTIZED) else Kind[kind.upper()]
        writer.add_tensor(name, gguf.quantize(tensor.to(torch.float32).numpy(), tensor_kind), raw_dtype=tensor_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
