"""The rows of jobs (`job_row`), batches (`batch_row`) and memos (`memo_row`): reading, changing, writing."""
