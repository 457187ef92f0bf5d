"""Ragged batches: the input of a step, gathered from flat arrays without padding."""
