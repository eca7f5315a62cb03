"""Files that are whole or absent, sealed JSON, append-only logs, checksums and run records: one way each."""
