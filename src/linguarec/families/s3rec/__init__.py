"""S3-Rec: SASRec after self-supervision on the same shop, with the items' texts."""
