"""What a model reads of an item, as objects: IDs, embeddings, codes, tokens."""
