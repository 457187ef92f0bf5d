"""EASE that also reads texts: item-item weights in closed form from the log and the text vectors."""
