"""Apps that servers under test run. Storage, timings and the ledger's folder come from the environment."""
