"""What a calibration is bound to: everything about a reranker that changes what its scores mean."""

from typing import Any

from qwen3_rag.models.cascade import Cascade
from qwen3_rag.models.protocols import RerankerProtocol
from qwen3_rag.models.reranker import Reranker
from qwen3_rag.prompts import resolve_instruction

__all__ = ["binding_of", "binding_text"]

# Rounding within a class moves scores less than texts of the same meaning do.
DTYPE_CLASSES = {"float16": "16-bit", "bfloat16": "16-bit", "float32": "32-bit"}


def binding_of(reranker: RerankerProtocol, instruction: str | None) -> dict[str, Any]:
    """Model, revision, dtype class and instruction of a reranker that has scored, as JSON; of a cascade, of each stage.

    Args:
        reranker: Of other classes than ours, the whole description counts.
        instruction: The instruction that was passed to it.
    """
    if isinstance(reranker, Cascade):
        return {"stages": [[binding_of(stage, instruction), depth] for stage, depth in reranker.stages]}
    if not isinstance(reranker, Reranker):
        return {"described": reranker.describe(), "instruction": instruction}
    dtype = reranker.runs_on["dtype"]
    return {
        "model": reranker.source.absolute,
        "revision": reranker.revision,
        "dtype": DTYPE_CLASSES.get(dtype, dtype),
        "instruction": resolve_instruction(instruction, reranker.instructions, reranker.instruction)
        if reranker.takes_instructions
        else None,
    }


def binding_text(binding: dict[str, Any]) -> str:
    """A binding for a reader."""
    if "stages" in binding:
        return ", then ".join(f"{binding_text(stage)} over {depth}" for stage, depth in binding["stages"])
    if "described" in binding:
        return f"{binding['described']} with the instruction {binding['instruction']!r}"
    revision = f" at revision {binding['revision']}" if binding["revision"] else ""
    instruction = f", with the instruction {binding['instruction']!r}" if binding["instruction"] else ""
    return f"{binding['model']}{revision}, {binding['dtype']}{instruction}"
