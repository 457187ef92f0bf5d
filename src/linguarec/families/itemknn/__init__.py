"""Item-kNN: items by ID, similarities counted from the log."""
