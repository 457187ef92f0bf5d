"""Item sources: the IDs, embeddings, codes or tokens of items that a model reads."""
