"""FDSA: histories by ID and by text vector, each through a sequence encoder of its own."""
