"""Item vectors as short discrete codes: product quantisation, residual, random, published indexes."""
