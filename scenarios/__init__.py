"""Simulated banks, hostile parties, the demo and the benchmarks."""
