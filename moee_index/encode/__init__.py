"""Texts in, Embeddings out: prompts, tokens, batches, passages."""
