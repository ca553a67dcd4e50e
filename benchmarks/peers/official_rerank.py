"""Peer: what the model card of Qwen3-Reranker computes, with plain transformers.

Left padding, logits of the whole vocabulary, softmax of no and yes at the last position. The card scores all pairs in
one batch, in the order given, and asks for the logits of every position; `--last-logits` asks for the last one's only.
"""

from collections.abc import Sequence

import torch
from common import batches, head_and_tails, parser, report, settings_of
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Score the job's pairs and print seconds and log-odds."""
    arguments = parser(__doc__)
    arguments.add_argument("--dtype", default="bfloat16")
    arguments.add_argument("--in-order", action="store_true", help="batches in the order given, not by length")
    arguments.add_argument("--last-logits", action="store_true", help="logits of the last position only")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    tokenizer = AutoTokenizer.from_pretrained(given.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=getattr(torch, given.dtype)).eval()
    no_yes = tokenizer.convert_tokens_to_ids(["no", "yes"])
    keep = {"logits_to_keep": 1} if given.last_logits else {}
    head, tails = head_and_tails(given.job)

    @torch.inference_mode()
    def run(tails: Sequence[str]) -> list[float]:
        ids = tokenizer([head + tail for tail in tails], add_special_tokens=False)["input_ids"]
        found = [0.0] * len(ids)
        for batch in batches([len(i) for i in ids], given.batch_size, not given.in_order):
            inputs = tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="pt")
            logits = model(**inputs, use_cache=False, **keep).logits[:, -1, no_yes].float()
            likely = torch.log_softmax(logits, dim=1)
            for i, value in zip(batch, (likely[:, 1] - likely[:, 0]).tolist(), strict=True):
                found[i] = value
        return found

    report(run, tails, given.warm_up, settings_of(given, torch=torch.__version__), "log_odds")


if __name__ == "__main__":
    main()
