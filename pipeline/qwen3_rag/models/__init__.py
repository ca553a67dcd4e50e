"""Runs the models: tokenizing, packing, attention, decoders, embedders and rerankers."""
