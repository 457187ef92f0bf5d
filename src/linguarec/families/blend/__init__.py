"""Blend: a weighted sum of trained models of the same items."""
