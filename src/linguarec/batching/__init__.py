"""Ragged batches: what a step reads, from flat arrays, without padding."""
