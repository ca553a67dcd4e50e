"""Small real models built for the tests, and the collections beside the repository if they exist."""

import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CONTROL_NOT_SPECIAL = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
# Qwen3's split of text into words, by which no token ever spans "<Document>:" and the blank after it.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer() -> str:
    """A byte-level BPE of Qwen3's make, with its kind of added tokens, trained on the demo passages."""
    from tokenizers import AddedToken, Regex

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    lines = [json.loads(line)["text"] for line in (ROOT / "data/demo/corpus.jsonl").read_text("utf-8").splitlines()]
    trainer = trainers.BpeTrainer(
        vocab_size=3000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([*lines, *["yes", "no"] * 500], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in CONTROL])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in CONTROL_NOT_SPECIAL])
    return tokenizer.to_str()


def save_model(
    folder: Path,
    kind: str = "causal",
    seed: int = 0,
    spread: float = 1.0,
    tokenizer: str | None = None,
    layers: int = 3,
    head_dim: int = 16,
) -> Path:
    """A tiny random Qwen3 checkpoint in `folder`; `spread` widens the weights and with them the scores."""
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification, Qwen3Model

    tokenizer = tokenizer or train_tokenizer()
    config = Qwen3Config(
        vocab_size=Tokenizer.from_str(tokenizer).get_vocab_size(),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=40960,
        rope_theta=1_000_000.0,
        tie_word_embeddings=True,
        num_labels=1,
    )
    torch.manual_seed(seed)
    classes = {"causal": Qwen3ForCausalLM, "classifier": Qwen3ForSequenceClassification, "embedding": Qwen3Model}
    model = classes[kind](config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.normal_(0, 0.15 * spread)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    layout = {"tokenizer_class": "Qwen2TokenizerFast", "pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(layout))
    return folder


# What `make quick` leaves out: tests with the demo models, and those that take more than a few seconds.
SLOW_MODULES = (
    "tests/test_cli.py",
    "tests/test_demo.py",
    "tests/test_distribution.py",
    "tests/test_forking.py",
    "tests/test_mcp.py::test_over_stdio",
    "tests/test_mcp_inspector.py",
    "tests/evaluation/test_command.py",
    "tests/index/test_backup.py",
    "tests/ingest/test_child.py",
    "tests/ingest/test_hostile.py",
    "tests/ingest/test_hostile_formats.py",
    "tests/ingest/test_linear.py",
    "tests/ingest/test_promises.py",
    "tests/ingest/test_sync.py",
    "tests/models/test_cross_encoder.py",
    "tests/models/test_demo.py",
    "tests/models/test_demo_minilm.py",
    "tests/models/test_engine.py",
    "tests/models/test_vllm.py",
    "tests/serving/test_clients.py",
    "tests/serving/test_fuzz.py",
    "tests/serving/test_operation.py",
    "tests/serving/test_reranking.py::test_our_own_url_runtime_finds",
    "tests/training/test_embedder.py",
    "tests/training/test_reranker.py",
)
SLOW_TESTS = (
    "test_32k_tokens_equal_the_official_formula",
    "test_500_random_pairs_up_to_32k_tokens_equal_the_official_formula",
    "test_a_pickled_model_loads_in_another_process_and_folder",
    "test_optimize_beside_a_writer_leaves_space_for_a_later_call_and_deletes_old_files",
    "test_readers_in_another_process_go_on_while_a_store_is_optimized",
    "test_the_real_tokenizer_changes_nothing",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(SLOW_MODULES) or item.name in SLOW_TESTS:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tokenizer_json() -> str:
    return train_tokenizer()


@pytest.fixture(scope="session")
def tiny_reranker(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: str) -> Path:
    return save_model(tmp_path_factory.mktemp("reranker"), spread=2.0, tokenizer=tokenizer_json)


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: str) -> Path:
    return save_model(tmp_path_factory.mktemp("classifier"), "classifier", spread=2.0, tokenizer=tokenizer_json)


@pytest.fixture(scope="session")
def tiny_embedder(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: str) -> Path:
    return save_model(tmp_path_factory.mktemp("embedder"), "embedding", tokenizer=tokenizer_json)


@pytest.fixture(scope="session")
def qwen3_tokenizer() -> str:
    path = SHARED / "qwen3-tokenizer/tokenizer.json"
    if not path.is_file():
        pytest.skip("the real Qwen3 tokenizer is not beside the repository (../shared/qwen3-tokenizer)")
    return path.read_text("utf-8")
