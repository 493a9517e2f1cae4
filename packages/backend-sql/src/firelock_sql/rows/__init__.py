"""The columns of a job (`job_row`), a batch (`batch_row`) and a memo (`memo_row`): read, changed, written."""
