"""The rows of jobs (`job_row`) with their `marks`, of batches (`batch_row`) and of memos (`memo_row`)."""
