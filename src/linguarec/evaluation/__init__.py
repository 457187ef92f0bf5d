"""Evaluation: ranks over the whole catalogue, metrics, intervals, slices, baselines, plots and reports."""
