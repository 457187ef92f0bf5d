"""Scores to ranks and to the best k: exact and approximate rankers behind one protocol."""
