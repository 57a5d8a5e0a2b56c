"""One file per kind of source. Each gives shards of rows; none knows of codes, splits or decoded pictures."""
