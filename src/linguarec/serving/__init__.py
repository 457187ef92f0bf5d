"""The service: a trained run behind HTTP, with a catalogue that changes while it runs and a durable state."""
