"""BERT4Rec: items by ID, masked items predicted from both sides."""
