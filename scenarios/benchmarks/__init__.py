"""What the product claims of its speed, its honesty and its models, measured, each figure beside its target.

`python -m scenarios.benchmarks NAME` runs one; each is a module here with `run(progress) -> Figures`. Ratios come from
pairs run in turn in one process, medians of at least five.
"""
