"""The few blocks that several models share: ragged attention, sequence encoders, adaptor, code embedding, losses."""
