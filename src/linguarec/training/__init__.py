"""Training with Lightning: stages, thin modules around the models, optimiser, callbacks, settings."""
