import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from qwen3_rag.training.packing import ATTENTION, pack_list, yes_no_scores

CONFIG = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "initializer_range": 0.4,
}


@pytest.mark.parametrize("lengths", [(5, 9, 1, 17), (4,), (8, 8, 8)])
def test_a_packed_list_scores_like_each_document_alone(lengths: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    alone = LlamaForCausalLM(LlamaConfig(**CONFIG)).eval()
    packing = LlamaForCausalLM(LlamaConfig(**CONFIG, attn_implementation=ATTENTION)).eval()
    packing.load_state_dict(alone.state_dict())
    direction = torch.randn(48)
    shared = torch.randint(97, (11,)).tolist()
    documents = [torch.randint(97, (length,)).tolist() for length in lengths]

    with torch.no_grad():
        packed = yes_no_scores(packing.model, direction, pack_list(shared, documents))
        separate = [alone.model(torch.tensor([shared + d]))[0][0, -1] @ direction for d in documents]

    assert packed.abs().max() > 0.5
    torch.testing.assert_close(packed, torch.stack(separate), atol=1e-4, rtol=0)


def test_a_row_has_the_positions_each_document_would_have_alone() -> None:
    packed = pack_list([1, 2, 3], [[4, 5], [6]])

    assert packed.ids.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 4, 3]]
    assert packed.last.tolist() == [4, 5]
