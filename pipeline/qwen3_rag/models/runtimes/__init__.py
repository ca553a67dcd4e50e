"""Runtimes: each computes with a model in its own way, behind one protocol for rerankers and one for embedders."""
