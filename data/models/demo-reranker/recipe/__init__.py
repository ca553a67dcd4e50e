"""How the demo reranker was made. It is not part of the library; the card beside it says how to run it."""
