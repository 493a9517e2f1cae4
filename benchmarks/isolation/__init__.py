"""What locked rows cost all other jobs, and how long the end of a job waits until it is stored."""
