"""The official scoring procedures, with transformers only and no code of this package."""

from pathlib import Path

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    "provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


class OfficialScores:
    """Left padding, truncation of the tokenized body, full logits, softmax of yes against no."""

    def __init__(self, folder: Path, max_length: int = 8192) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.prefix = self.tokenizer.encode(PREFIX, add_special_tokens=False)
        self.suffix = self.tokenizer.encode(SUFFIX, add_special_tokens=False)
        self.max_length = max_length

    @torch.no_grad()
    def log_odds(self, instruction: str, pairs: list[tuple[str, str]]) -> torch.Tensor:
        bodies = [f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}" for query, document in pairs]
        inputs = self.tokenizer(
            bodies,
            padding=False,
            truncation="longest_first",
            return_attention_mask=False,
            add_special_tokens=False,
            max_length=self.max_length - len(self.prefix) - len(self.suffix),
        )
        rows = [self.prefix + ids + self.suffix for ids in inputs["input_ids"]]
        padded = self.tokenizer.pad({"input_ids": rows}, padding=True, return_tensors="pt")
        logits = self.model(**padded, logits_to_keep=1).logits[:, -1, :]
        yes, no = (self.tokenizer.convert_tokens_to_ids(token) for token in ("yes", "no"))
        scores = torch.log_softmax(torch.stack([logits[:, no], logits[:, yes]], dim=1), dim=1)
        return scores[:, 1] - scores[:, 0]


class OfficialVectors:
    """Final `<|endoftext|>`, left padding, last token, L2 normalisation."""

    def __init__(self, folder: Path, max_length: int = 8192) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.max_length = max_length

    @torch.no_grad()
    def encode(self, texts: list[str], dimensions: int | None = None) -> torch.Tensor:
        end = self.tokenizer.convert_tokens_to_ids("<|endoftext|>")
        inputs = self.tokenizer(texts, truncation=True, max_length=self.max_length - 1, add_special_tokens=False)
        padded = self.tokenizer.pad({"input_ids": [[*ids, end] for ids in inputs["input_ids"]]}, return_tensors="pt")
        return torch.nn.functional.normalize(self.model(**padded).last_hidden_state[:, -1, :dimensions], dim=-1)
