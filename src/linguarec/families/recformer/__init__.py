"""Recformer: items and histories as text, read by a language model."""
