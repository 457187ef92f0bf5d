"""Models on disk: our own folders (safetensors + config.json) and the checkpoints of the released code."""
