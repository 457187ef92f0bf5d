"""Item texts: cleaning rules and language-model encoders."""
