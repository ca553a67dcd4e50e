"""A checkpoint: where its files are, its weights, its tokenizer, and the exact text formats it was trained on."""
