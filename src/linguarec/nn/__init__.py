"""Blocks that several models share: ragged layouts, sequence encoders, losses, gathering across processes."""
