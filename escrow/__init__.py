"""The coordinator's side: ledger, vault, runs, runtimes."""
