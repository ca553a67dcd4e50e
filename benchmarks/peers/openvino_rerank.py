"""Peer: OpenVINO on the CPU, the reranker converted from PyTorch on the spot; last tokens only.

`openvino` is enough; `--weights int8` compresses the weights and needs `nncf`. Sequences are padded on the right, which
causal attention never looks at, so no mask is needed; the answer is the last token's state times W_yes − W_no.
"""

from collections.abc import Sequence
from typing import Any

import openvino as ov
import torch
from common import batches, head_and_tails, parser, report, settings_of
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, AutoTokenizer


def causal(module: Any, q: Any, k: Any, v: Any, mask: Any, **_: Any) -> tuple[Any, None]:
    """Attention without any mask but the causal one: one fused operation after the conversion."""
    k, v = (x.repeat_interleave(module.num_key_value_groups, dim=1) for x in (k, v))
    scores = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=module.scaling)
    return scores.transpose(1, 2), None


class LogOdds(torch.nn.Module):
    """Token ids (n, length) and places of the last tokens (n,) to log-odds (n,)."""

    def __init__(self, model: Any, no_yes: list[int]) -> None:
        super().__init__()
        self.body = model.model
        rows = model.get_output_embeddings().weight[no_yes].detach().float()
        self.register_buffer("direction", rows[1] - rows[0])

    def forward(self, ids: Any, last: Any) -> Any:
        """As the class says."""
        states = self.body(input_ids=ids, use_cache=False).last_hidden_state
        return states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2]))[:, 0].float() @ self.direction


def converted(options: Any, no_yes: list[int]) -> Any:
    """The compiled model, with the weights in float16 or int8 and products in the precision asked for."""
    AttentionInterface.register("causal", causal)
    AttentionMaskInterface.register("causal", lambda *_, **__: None)
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.float32, attn_implementation="causal"
    ).eval()
    example = {"ids": torch.ones((2, 9), dtype=torch.long), "last": torch.tensor([8, 6])}
    graph = ov.convert_model(LogOdds(model, no_yes), example_input=example)
    if options.weights == "int8":
        import nncf

        graph = nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_SYM)
    hints = {"INFERENCE_PRECISION_HINT": options.precision, "DYNAMIC_QUANTIZATION_GROUP_SIZE": options.group_size}
    hints |= {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": options.threads}
    return ov.Core().compile_model(graph, "CPU", hints)


def main() -> None:
    """Score the job's pairs and print seconds and log-odds."""
    arguments = parser(__doc__)
    arguments.add_argument("--precision", default="bf16", help="bf16, f16 or f32")
    arguments.add_argument("--weights", default="float", choices=["float", "int8"])
    arguments.add_argument("--group-size", type=int, default=0, help="activations quantised on the fly in such groups")
    options = arguments.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    request = converted(options, tokenizer.convert_tokens_to_ids(["no", "yes"])).create_infer_request()
    head, tails = head_and_tails(options.job)

    def run(tails: Sequence[str]) -> list[float]:
        ids = tokenizer([head + tail for tail in tails], add_special_tokens=False)["input_ids"]
        scores = [0.0] * len(ids)
        for batch in batches([len(i) for i in ids], options.batch_size):
            longest = max(len(ids[i]) for i in batch)
            rows = torch.tensor([ids[i] + [0] * (longest - len(ids[i])) for i in batch])
            last = torch.tensor([len(ids[i]) - 1 for i in batch])
            for i, value in zip(batch, request.infer({"ids": rows.numpy(), "last": last.numpy()})[0], strict=True):
                scores[i] = float(value)
        return scores

    report(run, tails, options.warm_up, settings_of(options, openvino=ov.__version__), "log_odds")


if __name__ == "__main__":
    main()
