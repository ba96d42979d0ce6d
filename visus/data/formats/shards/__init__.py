"""WebDataset shards: tar files whose members are read in place."""
