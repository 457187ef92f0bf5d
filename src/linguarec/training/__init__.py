"""Thin Lightning modules around the models: stages, optimiser, callbacks, run record."""
