"""A node as a document of the store, and back."""

import json
from collections.abc import Mapping
from typing import Any

from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from qwen3_rag.records import Document

__all__ = ["document_of", "is_node", "node_of"]

CONTENT = "_node_content"


def document_of(node: BaseNode) -> Document:
    """A node as a document; all of it but its text and vector is in the metadata, by which it can be filtered.

    Raises:
        InvalidArgumentError: Metadata that are not JSON.
    """
    Document("", node.node_id, metadata=node.metadata)  # raises for what would come back as something else
    metadata = node_to_metadata_dict(node, remove_text=True, flat_metadata=False)
    metadata[CONTENT] = json.loads(metadata[CONTENT])  # as an object it is not indexed for filters; a text would be
    return Document(node.get_content(metadata_mode=MetadataMode.NONE), node.node_id, metadata=metadata)


def is_node(metadata: Mapping[str, Any]) -> bool:
    """Whether these are the metadata of a node that `document_of` made a document of."""
    return CONTENT in metadata


def node_of(metadata: Mapping[str, Any], text: str) -> BaseNode:
    """The node that a document was made of.

    Raises:
        ValueError: The document was none.
    """
    if not is_node(metadata):
        raise ValueError(
            f"the store holds documents that LlamaIndex did not write, such as {text[:60]!r}; expected none"
        )
    return metadata_dict_to_node({**metadata, CONTENT: json.dumps(metadata[CONTENT])}, text)
