"""SASRec on text: items by one linear map of their text vector."""
