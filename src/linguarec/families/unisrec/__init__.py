"""UniSRec: items by their text vectors, through a mixture-of-experts adaptor."""
