"""RecGURU: items by ID; user vectors that an adversary makes alike in several shops."""
