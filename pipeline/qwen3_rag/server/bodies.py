"""The bodies of requests: which fields each dialect has, and which values they take."""

import difflib
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.server.failures import RequestError

__all__ = [
    "AddBody",
    "Body",
    "ClassifyBody",
    "CohereEmbedBody",
    "CohereEmbedV2Body",
    "CohereTokenizeBody",
    "DeleteBody",
    "EmbeddingsBody",
    "RerankBody",
    "ScoreBody",
    "SearchBody",
    "TeiEmbedBody",
    "TokenizeBody",
    "parsed",
    "text_inputs",
]

SHOWN = 60  # characters of a wrong value in a message
Cuts = Annotated[
    bool | Literal["NONE", "START", "END", "start", "end", "none"] | None,
    Field(description="False or NONE refuses a document that is too long, START cuts its beginning, else its end."),
]
Text, Object, Null = {"type": "string"}, {"type": "object"}, {"type": "null"}
Ids = {"type": "array", "items": {"type": "integer"}}


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

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    deadline: Seconds | None = None
    user: Any = Field(None, description="Ignored.")


class Modelled(Body):
    """A body that names a model."""

    model: str | None = None
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


class Cutting(Modelled):
    """A body with texts that may be too long."""

    truncate: Cuts = None
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = None

    @property
    def refuses(self) -> bool:
        """Whether a text that is too long is an error."""
        return self.truncate is False or (isinstance(self.truncate, str) and self.truncate.upper() == "NONE")

    @property
    def from_start(self) -> bool:
        """Whether the beginning of a text is cut rather than its end."""
        start = isinstance(self.truncate, str) and self.truncate.upper() == "START"
        return start or (self.truncation_direction or "").lower() == "left"


class Scoring(Cutting):
    """A body that asks for scores."""

    raw_scores: bool | None = Field(None, description="Log-odds in place of probabilities.")
    use_activation: bool | None = Field(None, description="False gives log-odds in place of probabilities.")
    activation: bool | None = Field(None, description="As `use_activation`.")
    max_tokens_per_doc: Positive | None = Field(None, description="Documents are cut to so many tokens.")
    truncate_prompt_tokens: int | None = Field(None, ge=-1, description="Most tokens of a pair; the document is cut.")

    @property
    def wants_log_odds(self) -> bool:
        """Whether log-odds are wanted rather than probabilities."""
        return bool(self.raw_scores) or self.use_activation is False or self.activation is False


class RerankBody(Scoring):
    """Cohere's, Jina's and vLLM's rerank with `documents`; TEI's with `texts`."""

    query: TextOrObject
    documents: DocumentList = None
    texts: TextList = None
    top_n: int | None = Field(None, ge=0, description="Most results; 0 is all.")
    top_k: int | None = Field(None, ge=0, description="The same as `top_n`.")
    return_documents: bool | Literal["true", "false"] | None = None
    score_threshold: float | None = Field(None, description="Leaves out documents of a lower probability.")
    return_text: bool | None = None
    rank_fields: list[str] | None = Field(None, description="Fields of documents that are objects.")
    max_chunks_per_doc: Any = Field(None, description="Ignored: a document is read in one piece.")


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


class ClassifyBody(Scoring):
    """vLLM's classify with the token ids of the reranker's whole template."""

    input: IdLists


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
    input_type: str | None = Field(None, description="`query` or `search_query`; `document`, `search_document`, …")
    prompt_name: str | None = Field(None, description="`query`, `document`, or the name of an instruction.")
    task: str | None = Field(None, description="`retrieval.query`, `retrieval.passage`, …")


class EmbeddingsBody(Embedding):
    """OpenAI's and Jina's embeddings."""

    input: TextsOrIds
    encoding_format: Literal["float", "base64"] | None = None
    embedding_type: Literal["float", "base64"] | None = Field(None, description="As `encoding_format`.")
    encoding_type: Literal["float", "base64"] | None = Field(None, description="As `encoding_format`.")
    drop_params: Any = Field(None, description="Ignored.")
    normalized: Literal[True] | None = None
    late_chunking: Literal[False] | None = None


class CohereEmbedBody(Embedding):
    """Cohere's embed, version 1."""

    texts: TextList = None
    inputs: ObjectList = None
    embedding_types: list[Literal["float", "base64"]] | None = None
    output_dimension: Positive | None = Field(None, description="The same as `dimensions`.")
    max_tokens: Positive | None = Field(None, description="Texts are cut to so many tokens.")


class CohereEmbedV2Body(CohereEmbedBody):
    """Cohere's embed, version 2."""

    input_type: str


class TeiEmbedBody(Embedding):
    """TEI's embed, and that of Hugging Face's inference clients."""

    inputs: TextOrTexts
    normalize: Literal[True] | None = None


class SearchBody(Body):
    """Arguments of `Pipeline.search`."""

    query: str
    top_k: Positive = 10
    candidates: CountOrAuto = None
    filter: dict[str, Any] | None = None
    instruction: str | None = None
    min_score: float | None = None
    min_log_odds: float | None = None
    min_probability: float | None = None
    mode: Literal["dense", "lexical", "hybrid"] = "dense"
    rerank: bool = True
    blend: float = 0.0
    group_by_document: bool = False
    distinct: bool = False
    neighbours: int = 0


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

    documents: list[NewDocument] = Field(min_length=1)


class DeleteBody(Body):
    """Ids of documents to delete."""

    ids: list[str] = Field(min_length=1)


Kind = TypeVar("Kind", bound=Body)


def parsed(kind: type[Kind], body: bytes, ignore_unknown: bool) -> Kind:
    """A body from JSON.

    Raises:
        ValidationError: It is not JSON, or a field is wrong.
        RequestError: A field is unknown.
    """
    value = kind.model_validate_json(body)
    unknown = [name for name, given in (value.model_extra or {}).items() if given is not None]
    if unknown and not ignore_unknown:
        known = [name for name in kind.model_fields if name != "user"]
        nearest = difflib.get_close_matches(unknown[0], known, 1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "; --ignore-unknown lets such fields pass."
        raise RequestError(422, f"unknown field {unknown[0]!r}{hint} Known: {', '.join(known)}")
    return value


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
