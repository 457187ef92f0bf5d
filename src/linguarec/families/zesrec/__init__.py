"""ZESRec: items by a linear map of their text vector, scored by dot product, for shops without training."""
