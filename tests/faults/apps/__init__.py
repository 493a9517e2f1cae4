"""Apps for the servers under test. Environment variables set the storage, timings and the ledger's folder."""
