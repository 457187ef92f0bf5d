"""The run folder: settings, results, screen tables."""
