"""The exact prompt formats of Qwen3-Embedding and Qwen3-Reranker, and the named instructions.

The formats follow the model cards of `Qwen/Qwen3-Reranker-*` and `Qwen/Qwen3-Embedding-*`. Untrusted text goes only
into `rerank_query` and the document, which are encoded without added tokens (see `models.tokens`); only
`RERANK_PREFIX` and `RERANK_SUFFIX` contain control tokens.
"""

from collections.abc import Mapping

from qwen3_rag.errors import InvalidArgumentError, UnknownNameError

__all__ = ["INSTRUCTIONS", "RERANK_PREFIX", "RERANK_SUFFIX", "embed_query", "rerank_query", "resolve_instruction"]

RERANK_PREFIX = (
    "<|im_start|>system\n"
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
RERANK_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"

# In English for queries in any language, as in training.
INSTRUCTIONS: Mapping[str, str] = {
    "web-search": "Given a web search query, retrieve relevant passages that answer the query",
    "question-answering": "Given a question, retrieve passages that contain the answer to the question",
    "code-search": "Given a description of what a program should do, retrieve code that does it",
    "code-question": "Given a question about programming, retrieve the passages or code that answer it",
    "scientific-claims": "Given a scientific claim, retrieve documents that support or refute the claim",
    "fact-checking": "Given a claim, retrieve documents that support or refute the claim",
    "duplicate-questions": "Given a question, retrieve questions that are duplicates of it, asked in other words",
    "classification": "Given a text, retrieve descriptions of the category that the text belongs to",
    "summaries": "Given a text, retrieve the passage that summarises it",
    "similar-texts": "Given a text, retrieve texts that have the same meaning",
    "support": "Given a customer's problem, retrieve passages of the documentation that solve it",
    "legal": "Given a legal question, retrieve statutes and decisions that bear on it",
    "medical": "Given a medical question, retrieve passages that answer it",
}
DEFAULT_INSTRUCTION = "web-search"


def rerank_query(instruction: str, query: str) -> str:
    """The prompt part shared by all candidates of a query; the space before the document is not included."""
    return f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>:"


def embed_query(instruction: str, query: str) -> str:
    """The embedder's input for a query; there is no space after `Query:`. Documents are embedded without a prompt."""
    return f"Instruct: {instruction}\nQuery:{query}"


def resolve_instruction(instruction: str | None, own: Mapping[str, str], default: str | None = None) -> str:
    """The text of an instruction: a name in `own`, otherwise a preset's name, otherwise the text itself.

    Args:
        instruction: A name, a text, or None for `default` (or, without one, the official web search instruction).
        own: The user's named instructions, which override the presets.
        default: The name or text to use for None.

    Raises:
        InvalidArgumentError: The instruction is empty or not a string.
        UnknownNameError: The instruction is a single word and not a known name, so it is probably misspelt.
    """
    chosen = instruction if instruction is not None else default if default is not None else DEFAULT_INSTRUCTION
    if not isinstance(chosen, str) or not chosen.strip():
        raise InvalidArgumentError(f"instruction is {chosen!r}; expected a name or a sentence saying what to retrieve")
    if chosen in own:
        return own[chosen]
    if chosen in INSTRUCTIONS:
        return INSTRUCTIONS[chosen]
    if len(chosen.split()) == 1:
        raise UnknownNameError(
            "instruction", chosen, sorted({*own, *INSTRUCTIONS}), "A custom instruction must be a sentence."
        )
    return chosen
