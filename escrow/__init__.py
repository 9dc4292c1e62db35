"""The coordinator's side: ledger, vault, runs, runtimes."""

import contracts.protocol  # noqa: F401 - first of all: it settles how gRPC speaks TLS
