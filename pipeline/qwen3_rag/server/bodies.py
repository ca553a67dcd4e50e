"""The bodies of requests: which fields each dialect has, and which values they take."""

import difflib
import re
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, WithJsonSchema
from pydantic_core import from_json

from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.server.failures import RequestError

__all__ = [
    "Activated",
    "AddBody",
    "Body",
    "ClassifyBody",
    "CohereEmbedBody",
    "CohereEmbedV2Body",
    "CohereTokenizeBody",
    "DeleteBody",
    "EmbeddingsBody",
    "Instructed",
    "RerankBody",
    "ScoreBody",
    "SearchBody",
    "TeiEmbedBody",
    "TokenizeBody",
    "as_json",
    "parsed",
    "text_inputs",
]

# Every quote begins a match, also without an end, and nothing is tried twice: the time is linear.
STRING = re.compile(rb'"[^"\\]*+(?:\\.?[^"\\]*+)*+"?', re.DOTALL)
SHOWN = 60  # characters of a wrong value in a message
Cuts = Annotated[
    bool | Literal["NONE", "START", "END", "start", "end", "none"] | None,
    Field(description="False or NONE refuses a document that is too long, START cuts its beginning, else its end."),
]
Text, Object, Null = {"type": "string"}, {"type": "object"}, {"type": "null"}
Ids = {"type": "array", "items": {"type": "integer"}}


class _First(FailFast):
    """Reports the first wrong item of a list only; hashable, as a part of a union must be."""

    __hash__ = object.__hash__


FIRST = _First()


def _shapes(*shapes: dict[str, Any]) -> WithJsonSchema:
    """The shapes of a field; its endpoint checks them, here they are described."""
    return WithJsonSchema({"anyOf": list(shapes)})


def _list_of(*shapes: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": {"anyOf": list(shapes)}}


TextOrObject = Annotated[Any, _shapes(Text, Object)]
TextOrTexts = Annotated[Any, _shapes(Text, _list_of(Text), Null)]
TextList = Annotated[Any, _shapes(_list_of(Text), Null)]
ObjectList = Annotated[Any, _shapes(_list_of(Object), Null)]
DocumentList = Annotated[Any, _shapes(_list_of(Text, Object), Null)]
IdLists = Annotated[Any, _shapes(Ids, _list_of(Ids))]
TextsOrIds = Annotated[Any, _shapes(Text, Ids, _list_of(Text, Ids, Object))]
CountOrAuto = Annotated[Any, _shapes({"type": "integer"}, {"const": "auto"}, Null)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, description="Seconds from the request's arrival after which it stops.")]


class Body(BaseModel):
    """What every body may have."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    tei_field: ClassVar[str | None] = None  # the field by which a body is one of TEI's

    user: Any = Field(None, description="Ignored.")
    priority: Any = Field(None, description="Ignored: requests are answered fairly.")
    request_id: Any = Field(None, description="Ignored: the header X-Request-ID is used.")
    cache_salt: Any = Field(None, description="Ignored.")


class Timed(Body):
    """A body of work that can be stopped."""

    deadline: Seconds | None = None


class Instructed(Timed):
    """A body that says what is wanted."""

    instruction: str | None = Field(None, description="A sentence, or the name of a preset.")
    instruct: str | None = Field(None, description="The same as `instruction`.")

    @property
    def sentence(self) -> str | None:
        """The instruction.

        Raises:
            InvalidArgumentError: Two different ones.
        """
        if self.instruction is not None and self.instruct is not None and self.instruction != self.instruct:
            raise InvalidArgumentError(
                f"instruction is {self.instruction!r} and instruct is {self.instruct!r}; expected one of them"
            )
        return self.instruct if self.instruction is None else self.instruction


class Modelled(Instructed):
    """A body that names a model."""

    model: str | None = None


class Cutting(Modelled):
    """A body with texts that may be too long."""

    truncate: Cuts = None
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = None
    truncation_side: Literal["left", "right"] | None = Field(None, description="The same as `truncation_direction`.")

    @property
    def refuses(self) -> bool:
        """Whether a text that is too long is an error."""
        return self.truncate is False or (isinstance(self.truncate, str) and self.truncate.upper() == "NONE")

    @property
    def from_start(self) -> bool:
        """Whether the beginning of a text is cut rather than its end."""
        start = isinstance(self.truncate, str) and self.truncate.upper() == "START"
        sides = {(side or "right").lower() for side in (self.truncation_direction, self.truncation_side)}
        return start or "left" in sides


class Activated(Timed):
    """A body that asks for scores."""

    raw_scores: bool | None = Field(None, description="Log-odds in place of probabilities.")
    use_activation: bool | None = Field(None, description="False gives log-odds in place of probabilities.")
    activation: bool | None = Field(None, description="As `use_activation`.")

    @property
    def wants_log_odds(self) -> bool:
        """Whether log-odds are wanted rather than probabilities."""
        return bool(self.raw_scores) or self.use_activation is False or self.activation is False


class Scoring(Cutting, Activated):
    """A body that asks for the scores of texts."""

    max_tokens_per_doc: Positive | None = Field(None, description="Documents are cut to so many tokens.")
    truncate_prompt_tokens: int | None = Field(None, ge=-1, description="Most tokens of a pair; the document is cut.")


class RerankBody(Scoring):
    """Cohere's, Jina's and vLLM's rerank with `documents`; TEI's with `texts`."""

    tei_field = "texts"

    query: TextOrObject
    documents: DocumentList = None
    texts: TextList = None
    top_n: int | None = Field(None, ge=0, description="Most results; 0 is all.")
    top_k: int | None = Field(None, ge=0, description="The same as `top_n`.")
    return_documents: bool | Literal["true", "false"] | None = None
    score_threshold: float | None = Field(None, description="Leaves out documents of a lower probability.")
    return_text: bool | None = None
    rank_fields: Annotated[list[str], FIRST] | None = Field(None, description="Fields of documents that are objects.")
    max_chunks_per_doc: Any = Field(None, description="Ignored: a document is read in one piece.")

    @property
    def most(self) -> int | None:
        """Most results, or None for all.

        Raises:
            InvalidArgumentError: Two different numbers.
        """
        if self.top_n is not None and self.top_k is not None and self.top_n != self.top_k:
            raise InvalidArgumentError(f"top_n is {self.top_n} and top_k is {self.top_k}; expected one of them")
        return (self.top_k if self.top_n is None else self.top_n) or None


class ScoreBody(Scoring):
    """vLLM's score: one text against one or several, or as many pairs."""

    text_1: TextOrTexts = None
    text_2: TextOrTexts = None
    queries: TextOrTexts = None
    documents: TextOrTexts = None
    items: TextOrTexts = None
    data_1: TextOrTexts = None
    data_2: TextOrTexts = None
    encoding_format: Literal["float"] | None = None


class ClassifyBody(Activated):
    """vLLM's classify with the token ids of the reranker's whole template."""

    model: str | None = None
    input: IdLists
    truncate_prompt_tokens: Literal[-1] | None = Field(None, description="Token ids are never cut.")
    add_special_tokens: Any = Field(None, description="Ignored: the ids are complete.")


class CohereTokenizeBody(Body):
    """Cohere's tokenize; a spelled-out control token is ordinary text."""

    model: str | None = None
    text: str


class TokenizeBody(Body):
    """vLLM's tokenize; a spelled-out control token is ordinary text."""

    model: str | None = None
    prompt: str
    add_special_tokens: bool | None = Field(None, description="Ignored: none are added.")
    return_token_strs: bool | None = None


class Embedding(Cutting):
    """A body that asks for vectors."""

    dimensions: Positive | None = None
    truncate_prompt_tokens: int | None = Field(None, ge=-1, description="Most tokens of an input, its end included.")
    input_type: str | None = Field(None, description="`query` or `search_query`; `document`, `search_document`, …")
    prompt_name: str | None = Field(None, description="`query`, `document`, or the name of an instruction.")
    task: str | None = Field(None, description="`retrieval.query`, `retrieval.passage`, …")


class EmbeddingsBody(Embedding):
    """OpenAI's and Jina's embeddings."""

    input: TextsOrIds
    encoding_format: Literal["float", "base64"] | None = None
    embedding_type: Literal["float", "base64"] | Annotated[list[Literal["float", "base64"]], FIRST] | None = Field(
        None, description="As `encoding_format`; of a list, the first."
    )
    encoding_type: Literal["float", "base64"] | None = Field(None, description="As `encoding_format`.")
    drop_params: Any = Field(None, description="Ignored.")
    normalized: Literal[True] | None = None
    late_chunking: Literal[False] | None = None
    return_multivector: Literal[False] | None = None
    add_special_tokens: Literal[True] | None = None
    use_activation: Literal[True] | None = Field(None, description="Vectors are always of unit length.")
    embed_dtype: Literal["float32"] | None = None
    endianness: Literal["native", "little"] | None = None


class CohereEmbedBody(Embedding):
    """Cohere's embed, version 1."""

    texts: TextList = None
    inputs: ObjectList = None
    embedding_types: Annotated[list[Literal["float", "base64"]], FIRST] | None = None
    output_dimension: Positive | None = Field(None, description="The same as `dimensions`.")
    max_tokens: Positive | None = Field(None, description="Texts are cut to so many tokens.")


class CohereEmbedV2Body(CohereEmbedBody):
    """Cohere's embed, version 2."""

    input_type: str


class TeiEmbedBody(Embedding):
    """TEI's embed, and that of Hugging Face's inference clients."""

    inputs: TextOrTexts
    normalize: Literal[True] | None = None
    options: Any = Field(None, description="Ignored.")


class SearchBody(Instructed):
    """Arguments of `Pipeline.search`."""

    query: str
    top_k: int = Field(10, ge=1, le=10_000)
    candidates: CountOrAuto = None
    filter: dict[str, Any] | None = None
    min_score: float | None = None
    min_log_odds: float | None = None
    min_probability: float | None = None
    mode: Literal["dense", "lexical", "hybrid"] = "dense"
    rerank: bool = True
    blend: float = 0.0
    group_by_document: bool = False
    distinct: bool = False
    neighbours: int = Field(0, ge=0, le=100)


class NewDocument(BaseModel):
    """A document to add; by default its id is a hash of the text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str
    id: str | None = None
    title: str | None = None
    source: str | None = None
    metadata: dict[str, Any] = {}


class AddBody(Body):
    """Documents to add; those with the same ids are replaced."""

    documents: Annotated[list[NewDocument], FIRST] = Field(min_length=1)


class DeleteBody(Body):
    """Ids of documents to delete."""

    ids: Annotated[list[str], FIRST] = Field(min_length=1)


Kind = TypeVar("Kind", bound=Body)


def as_json(body: bytes, most: int) -> dict[str, Any]:
    """A body as a JSON object.

    Args:
        body: Its bytes.
        most: Most values in it; more would take long to read, whatever they are.

    Raises:
        RequestError: It is not JSON (400), not an object (422), or has too many values (413).
    """
    if _marks(body) > most and _marks(STRING.sub(b"", body)) > most:
        raise RequestError(413, f"the body has more than {most} values; expected fewer: send several")
    try:
        value = from_json(body, allow_inf_nan=False, cache_strings=False)
    except ValueError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RequestError(422, f"the body is {repr(value)[:SHOWN]}; expected an object")
    return value


def _marks(body: bytes) -> int:
    """About the number of values; also counts marks inside of texts."""
    return sum(body.count(mark) for mark in (b",", b"[", b"{"))


def parsed(kind: type[Kind], value: dict[str, Any], ignore_unknown: bool) -> Kind:
    """A body of this kind.

    Raises:
        ValidationError: A field is wrong.
        RequestError: A field is unknown.
    """
    unknown = [name for name in value.keys() - kind.model_fields.keys() if value[name] is not None]
    if unknown and not ignore_unknown:
        first = min(unknown)[:SHOWN]
        fields = kind.model_fields.items()
        known = [name for name, field in fields if not (field.description or "").startswith("Ignored")]
        nearest = difflib.get_close_matches(first, known, 1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "; --ignore-unknown lets such fields pass."
        raise RequestError(422, f"unknown field {first!r}{hint} Known: {', '.join(known)}")
    return kind.model_validate({name: each for name, each in value.items() if each is not None})


def text_inputs(value: Any, name: str) -> list[str]:
    """One text or several, also as objects with a `text`.

    Raises:
        InvalidArgumentError: No text, or something else.
    """
    many = value if isinstance(value, list) else [value]
    if not many:
        raise InvalidArgumentError(f"{name} is empty; expected at least one text")
    texts = []
    for place, each in enumerate(many):
        text = each.get("text") if isinstance(each, dict) else each
        if not isinstance(text, str):
            where = f"{name}[{place}]" if isinstance(value, list) else name
            raise InvalidArgumentError(f"{where} is {repr(each)[:SHOWN]}; expected a text")
        texts.append(text)
    return texts
