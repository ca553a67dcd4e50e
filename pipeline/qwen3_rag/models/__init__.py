"""Everything that runs a transformer: text to ids, packing, attention, decoders, embedders, rerankers."""
