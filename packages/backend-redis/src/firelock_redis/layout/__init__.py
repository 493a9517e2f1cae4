"""Where a job is in Redis (`partitions`), and how its fields are written there (`encoding`)."""
