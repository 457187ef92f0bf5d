"""Text-kNN: the items nearest to the history by their text, nothing trained."""
