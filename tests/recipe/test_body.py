from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from qwen3_rag.models.checkpoints.demo import merge_adapter
from recipe.body import AdaptedDecoder, pack_list

YES, NO = 5, 6
# Both are raised inside torch while it compiles.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


@pytest.fixture
def config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=97,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        initializer_range=0.4,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )


def alone(model: LlamaForCausalLM, shared: list[int], document: list[int]) -> torch.Tensor:
    logits = model(torch.tensor([shared + document])).logits[0, -1]
    return logits[YES] - logits[NO]


@pytest.mark.parametrize("lengths", [(5, 9, 1, 17), (4,), (8, 8, 8)])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_packed_list_scores_like_each_document_alone(
    config: LlamaConfig, lengths: tuple[int, ...], compiled: bool, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    stock = LlamaForCausalLM(config).eval()
    decoder = AdaptedDecoder(config, stock.state_dict(), 4, 8.0, torch.float32, compiled)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    decoder.save(tmp_path, "base")
    decoder.load(tmp_path)  # the file holds the factors in bf16
    merged = {name: value.clone() for name, value in stock.state_dict().items()}
    merge_adapter(merged, tmp_path)
    stock.load_state_dict(merged)
    shared = torch.randint(97, (11,)).tolist()
    documents = [torch.randint(97, (length,)).tolist() for length in lengths]

    packed = decoder.log_odds(pack_list(shared, documents), YES, NO)

    with torch.no_grad():
        separate = torch.stack([alone(stock, shared, document) for document in documents])
    assert separate.abs().max() > 0.5
    torch.testing.assert_close(packed, separate, atol=1e-3, rtol=0)


def test_gradients_of_the_adapters_are_those_of_the_merged_weights(config: LlamaConfig) -> None:
    torch.manual_seed(4)
    stock = LlamaForCausalLM(config)
    decoder = AdaptedDecoder(config, stock.state_dict(), 4, 8.0, torch.float32, compiled=True)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    plain = AdaptedDecoder(config, stock.state_dict(), 4, 8.0, torch.float32, compiled=False)
    plain.load_state_dict(decoder.state_dict())
    packed = pack_list(list(range(9)), [[1, 2, 3], [4] * 12, [7, 8]])

    for body in (decoder, plain):
        body.log_odds(packed, YES, NO).square().sum().backward()

    for ours, theirs in zip(decoder.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-3, rtol=1e-3)


def test_a_row_has_the_positions_each_document_would_have_alone() -> None:
    packed = pack_list([1, 2, 3], [[4, 5], [6]])

    assert packed.ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert packed.positions.tolist() == [0, 1, 2, 3, 4, 3]
    assert packed.last.tolist() == [4, 5]
