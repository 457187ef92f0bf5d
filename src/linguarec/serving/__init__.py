"""The service: an HTTP API over a trained run, its live state, and one page."""
