"""Peer: `CrossEncoder.predict` of sentence-transformers, which sorts by length itself.

A checkpoint without a chat template gets a pair's two texts joined as they are, so they carry the whole template.
"""

from collections.abc import Sequence

import sentence_transformers
import torch
from common import head_and_tails, parser, report, settings_of


def main() -> None:
    """Score the job's pairs and print seconds and log-odds."""
    arguments = parser(__doc__)
    arguments.add_argument("--dtype", default="bfloat16")
    arguments.add_argument("--attention", default="sdpa", help="sdpa or eager")
    arguments.add_argument("--compile", action="store_true", help="the library's own CrossEncoder.compile")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    model = sentence_transformers.CrossEncoder(
        str(options.model),
        device="cpu",
        max_length=8192,
        activation_fn=torch.nn.Identity(),
        model_kwargs={"dtype": getattr(torch, options.dtype), "attn_implementation": options.attention},
    )
    if options.compile:
        model.compile(dynamic=True)
    head, tails = head_and_tails(options.job)

    def run(tails: Sequence[str]) -> list[float]:
        pairs = [(head, tail) for tail in tails]
        return list(model.predict(pairs, batch_size=options.batch_size, show_progress_bar=False))

    settings = settings_of(options, sentence_transformers=sentence_transformers.__version__)
    report(run, tails, options.warm_up, settings, "log_odds")


if __name__ == "__main__":
    main()
