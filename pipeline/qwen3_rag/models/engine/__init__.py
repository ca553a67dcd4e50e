"""The native engine: packed batches through a stock decoder, shared by all callers."""
