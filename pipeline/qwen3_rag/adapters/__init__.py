"""What the adapters for LangChain and LlamaIndex share."""
