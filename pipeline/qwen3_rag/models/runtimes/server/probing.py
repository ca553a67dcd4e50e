"""Probes a server for the request format it understands, and detects wrongly started servers.

A reranking server may expect the model's template in the texts or add it itself. Started without the template, it
returns scores that look right but are wrong. So each format is tried on fixed pairs with an obvious order, and only a
format that ranks every right document first is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import ModelError
from qwen3_rag.models.runtimes.server.client import RefusedError
from qwen3_rag.models.runtimes.server.forms import TEXT_FORMS, Form, IdForm, TextForm, log_odds_of
from qwen3_rag.models.runtimes.server.served import Served
from qwen3_rag.prompts import DEFAULT_INSTRUCTION, INSTRUCTIONS, RERANK_PREFIX, RERANK_SUFFIX, rerank_query

__all__ = ["DEFAULT", "PROBES", "START", "Chosen", "choose", "wrong_queries"]

Float32 = NDArray[np.float32]
DEFAULT = INSTRUCTIONS[DEFAULT_INSTRUCTION]
OTHER_INSTRUCTION = "Given a bill of lading, name the port of departure"
# Relative difference up to which two scores count as equal; 16-bit models are no more repeatable.
SAME = 2e-3
START = (
    "Start it for reranking; with vLLM: vllm serve MODEL --runner pooling --convert classify --hf-overrides "
    '\'{"classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax", "num_labels": 1}\' '
    "(without --hf-overrides for a one-label classifier). It needs no --chat-template, because this package sends the "
    "template; a server that adds one itself must add exactly the model card's"
)
# A query, the document that answers it, and two that do not.
PROBES: tuple[tuple[str, str, str, str], ...] = (
    (
        "What is the capital of China?",
        "The capital of China is Beijing.",
        "Gravity is a force that attracts two bodies towards each other.",
        "Butter is made by churning cream until the fat separates.",
    ),
    (
        "How do I bake bread at home?",
        "To bake bread at home, knead flour, water, salt and yeast, let the dough rise, and bake it.",
        "The Second World War ended in 1945.",
        "The stock exchange closed lower after the bank raised interest rates.",
    ),
    (
        "What causes ocean tides?",
        "Ocean tides are caused by the gravitational pull of the moon and the sun.",
        "Chess is played on a board of sixty-four squares.",
        "Lists in Python are written in square brackets.",
    ),
    (
        "Quelle est la hauteur du mont Blanc ?",
        "Le mont Blanc culmine à environ 4 806 mètres d'altitude.",
        "Le violon est un instrument à quatre cordes.",
        "Les abeilles produisent du miel à partir du nectar des fleurs.",
    ),
    (
        "Wann wurde die Berliner Mauer gebaut?",
        "Die Berliner Mauer wurde am 13. August 1961 errichtet.",
        "Der Igel hält im Winter Winterschlaf.",
        "Kartoffeln werden in Salzwasser gekocht.",
    ),
    (
        "珠穆朗玛峰有多高？",
        "珠穆朗玛峰的海拔约为8848.86米，是世界最高峰。",
        "钢琴是一种键盘乐器。",
        "牛奶富含蛋白质和钙。",
    ),
)


@dataclass(frozen=True)
class Chosen:
    """The request format that a server understands.

    Attributes:
        form: The request format.
        probabilities: Whether the scores are probabilities rather than log-odds.
        instructed: Whether an instruction changes the scores.
        exact: Whether the server reports the token count of the whole template.
        margin: Smallest difference in log-odds, over the queries, between the right and the best wrong document.
    """

    form: Form
    probabilities: bool
    instructed: bool
    exact: bool
    margin: float

    def log_odds(self, values: Float32) -> Float32:
        """Log-odds of the server's scores."""
        return log_odds_of(values) if self.probabilities else values


def choose(served: Served, endpoint: str, probe: bool) -> Chosen:
    """Find the request format that ranks every fixed pair right.

    Token ids are tried first, because no template can spoil them. Among the text formats, one for which the server
    reports the right number of tokens wins. If the server reports none, its own template is preferred: a doubled
    template still ranks easy pairs right, with wrong scores, while a model without any template fails on some pairs.

    Args:
        served: The server.
        endpoint: "auto", or only "classify", "score" or "rerank".
        probe: False takes the first format that the server answers, without checking the ranking.

    Raises:
        ModelError: No format works; the message says how to start the server.
    """
    failures: list[str] = []
    if served.rerank_format and endpoint in ("auto", "classify"):
        chosen = _try_form(served, IdForm(served.rerank_format), probe, failures)
        if chosen:
            return chosen
    forms = [form for form in TEXT_FORMS if endpoint in ("auto", form.endpoint)]
    if forms and probe and _symmetric(served, forms[-1]):
        raise ModelError(
            f"the server {served.client.url} gives the same scores when query and document are swapped: it compares "
            f"embeddings; expected a reranker. {START}"
        )
    passed = [chosen for form in forms if (chosen := _try_form(served, form, probe, failures))]
    if passed:
        return (
            max(passed, key=lambda chosen: (chosen.exact, not chosen.form.template, chosen.margin))
            if probe
            else passed[0]
        )
    if endpoint == "classify" and not served.rerank_format:
        failures.append(f"endpoint='classify' needs the tokenizer of {served.model!r}, which is not on this machine")
    raise ModelError(
        f"the server {served.client.url} cannot be used as a reranker: {'; '.join(dict.fromkeys(failures))}. {START}"
    )


def _try_form(served: Served, form: Form, probe: bool, failures: list[str]) -> Chosen | None:
    """Try a format on the fixed pairs; if it fails, add the reason to `failures` and return None."""
    try:
        scores, chosen = _measure(served, form)
    except RefusedError as error:
        if isinstance(form, TextForm) and not form.plain:
            return _try_form(served, replace(form, plain=True), probe, failures)
        failures.append(f"{form.name}: {error}")
        return None
    wrong = wrong_queries(scores)
    if wrong and probe:
        failures.append(
            f"{form.name}: it ranks {len(wrong)} of {len(PROBES)} fixed queries wrong, such as {wrong[0]!r}"
        )
        return None
    return chosen


def _measure(served: Served, form: Form) -> tuple[Float32, Chosen]:
    """Scores (queries, 3) of the fixed pairs, the right document first, and the format's properties."""
    rows = []
    for query, *documents in PROBES:
        rows.append(form.ask(served, DEFAULT, query, documents).values)
    values = np.stack(rows)
    probabilities = bool(((values >= 0) & (values <= 1)).all())
    log_odds = log_odds_of(values) if probabilities else values
    chosen = Chosen(
        form, probabilities, _instructed(served, form, values[0]), _exact(served, form), float(_margins(log_odds).min())
    )
    return log_odds, chosen


def _margins(log_odds: NDArray[np.floating]) -> NDArray[np.floating]:
    margins: NDArray[np.floating] = log_odds[:, 0] - log_odds[:, 1:].max(axis=1)
    return margins


def wrong_queries(scores: NDArray[np.floating]) -> list[str]:
    """Queries whose right document does not have the highest of the scores (queries, 3)."""
    return [probe[0] for probe, margin in zip(PROBES, _margins(scores), strict=True) if not margin > 0]


def _instructed(served: Served, form: Form, before: Float32) -> bool:
    """Whether another instruction changes the first query's scores."""
    if form.template:
        return True
    query, *documents = PROBES[0]
    return not np.allclose(before, form.ask(served, OTHER_INSTRUCTION, query, documents).values, rtol=SAME, atol=0)


def _exact(served: Served, form: Form) -> bool:
    """Whether the server reports as many tokens for a pair as the whole template gives it."""
    query, document = PROBES[0][:2]
    read = form.ask(served, DEFAULT, query, [document]).tokens_read
    prompt = f"{RERANK_PREFIX}{rerank_query(DEFAULT, query)} {document}{RERANK_SUFFIX}"
    if served.tokens:
        return read == len(served.tokens.encode_control(prompt))
    response = served.tokenized(prompt)
    return response is not None and read == len(response["tokens"])


def _symmetric(served: Served, form: Form) -> bool:
    """Whether swapping query and document leaves the scores unchanged, for matching and non-matching pairs."""
    query, right, other, _ = PROBES[0]

    def both_ways(first: str, second: str) -> Sequence[float]:
        return [float(form.ask(served, "", a, [b]).values[0]) for a, b in ((first, second), (second, first))]

    try:
        scores = np.array([both_ways(query, right), both_ways(query, other), both_ways(right, other)])
    except RefusedError:
        return False
    return bool(np.allclose(scores[:, 0], scores[:, 1], rtol=SAME, atol=0))
