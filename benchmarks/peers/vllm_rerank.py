"""Peer: vLLM's own `LLM.score`, run by the Python of `make peers`; the pair's texts carry the whole template."""

import os
from collections.abc import Sequence

from common import head_and_tails, parser, report, settings_of


def main() -> None:
    """Score the job's pairs and print seconds and log-odds."""
    arguments = parser(__doc__)
    arguments.add_argument("--dtype", default="bfloat16")
    arguments.add_argument("--block-size", type=int, default=32, help="tokens of a block of its prefix cache")
    arguments.add_argument("--tokens", type=int, default=2048, help="tokens of a batch")
    options = arguments.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # By default it leaves a core to its scheduler, which on two cores is half of the machine.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{options.threads - 1}")
    import vllm
    from vllm import LLM, PoolingParams

    model = LLM(
        model=str(options.model),
        runner="pooling",
        dtype=options.dtype,
        max_model_len=8192,
        max_num_batched_tokens=max(options.tokens, 8192),
        max_num_seqs=options.batch_size,
        block_size=options.block_size,
        enable_prefix_caching=True,
        disable_log_stats=True,
        hf_overrides={
            "architectures": ["Qwen3ForSequenceClassification"],
            "classifier_from_token": ["no", "yes"],
            "is_original_qwen3_reranker": True,
        },
    )
    head, tails = head_and_tails(options.job)

    def run(tails: Sequence[str]) -> list[float]:
        answers = model.score(
            [head] * len(tails), list(tails), pooling_params=PoolingParams(use_activation=False), use_tqdm=False
        )
        # Documents scored earlier would hit the prefix cache, so every run starts without it.
        model.llm_engine.reset_prefix_cache()
        return [answer.outputs.score for answer in answers]

    report(run, tails, options.warm_up, settings_of(options, vllm=vllm.__version__), "log_odds")


if __name__ == "__main__":
    main()
