"""VQ-Rec: items by the discrete codes of their text vectors."""
