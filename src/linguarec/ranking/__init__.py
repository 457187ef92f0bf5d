"""Scores to ranks and to the best k: exact, of sparse rows, of weighted sums, approximate."""
