"""Peer: what the model card of Qwen3-Reranker computes, with plain transformers.

Left padding, logits of the whole vocabulary, softmax of no and yes at the last position. The card scores all pairs in
one batch, in input order, and computes logits of every position; `--last-logits` computes the last one only.
"""

from collections.abc import Sequence

import torch
from common import batches, head_and_tails, parser, report, settings_of
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Score the job's pairs and print seconds and log-odds."""
    arguments = parser(__doc__)
    arguments.add_argument("--dtype", default="bfloat16")
    arguments.add_argument("--in-order", action="store_true", help="batches in input order, not by length")
    arguments.add_argument("--last-logits", action="store_true", help="logits of the last position only")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).eval()
    no_yes = tokenizer.convert_tokens_to_ids(["no", "yes"])
    keep = {"logits_to_keep": 1} if options.last_logits else {}
    head, tails = head_and_tails(options.job)

    @torch.inference_mode()
    def run(tails: Sequence[str]) -> list[float]:
        ids = tokenizer([head + tail for tail in tails], add_special_tokens=False)["input_ids"]
        scores = [0.0] * len(ids)
        for batch in batches([len(i) for i in ids], options.batch_size, not options.in_order):
            inputs = tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="pt")
            logits = model(**inputs, use_cache=False, **keep).logits[:, -1, no_yes].float()
            likely = torch.log_softmax(logits, dim=1)
            for i, value in zip(batch, (likely[:, 1] - likely[:, 0]).tolist(), strict=True):
                scores[i] = value
        return scores

    report(run, tails, options.warm_up, settings_of(options, torch=torch.__version__), "log_odds")


if __name__ == "__main__":
    main()
