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
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    model = sentence_transformers.CrossEncoder(
        str(given.model),
        device="cpu",
        max_length=8192,
        activation_fn=torch.nn.Identity(),
        model_kwargs={"dtype": getattr(torch, given.dtype), "attn_implementation": given.attention},
    )
    if given.compile:
        model.compile(dynamic=True)
    head, tails = head_and_tails(given.job)

    def run(tails: Sequence[str]) -> list[float]:
        pairs = [(head, tail) for tail in tails]
        return list(model.predict(pairs, batch_size=given.batch_size, show_progress_bar=False))

    settings = settings_of(given, sentence_transformers=sentence_transformers.__version__)
    report(run, tails, given.warm_up, settings, "log_odds")


if __name__ == "__main__":
    main()
