"""The OpenAPI document describes the routes that are there."""

from openapi_spec_validator import validate

from qwen3_rag.server.application import ENDPOINTS
from qwen3_rag.server.openapi import described
from served import Served


def test_the_document_is_valid_and_names_every_route(models: Served) -> None:
    document = models.http.get("/openapi.json").json()
    validate(document)
    named = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert named == {(each.method, each.path.replace(":rest", "")) for each in ENDPOINTS}
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["description"]


def test_the_fields_of_a_body_are_described(models: Served) -> None:
    document = models.http.get("/openapi.json").json()
    assert "security" not in document
    schema = document["components"]["schemas"]["RerankBody"]
    assert schema["required"] == ["query"]
    assert {"documents", "texts", "instruction", "instruct", "top_n", "max_tokens_per_doc"} <= set(schema["properties"])
    parameters = document["paths"]["/documents/{id}"]["get"]["parameters"]
    assert {each["name"] for each in parameters} == {"id", "line", "lines", "start", "end", "page"}


def test_a_server_with_keys_says_so() -> None:
    document = described(ENDPOINTS, with_keys=True)
    validate(document)
    assert document["security"] == [{"key": []}]
    assert document["paths"]["/health"]["get"]["security"] == []
