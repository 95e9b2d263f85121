"""The ledger engine and the computed rules: domain XML in, target paths with values and reasons out."""
