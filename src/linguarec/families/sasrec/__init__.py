"""SASRec: items by ID."""
