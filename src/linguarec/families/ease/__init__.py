"""EASE: item-item weights in closed form."""
