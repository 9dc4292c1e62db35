"""Simulated banks, hostile parties, the demo and the benchmarks."""

import contracts.protocol  # noqa: F401 - first of all: it settles how gRPC speaks TLS
