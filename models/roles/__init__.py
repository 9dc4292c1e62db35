"""What a worker does, one module a role; each is `run(job, place, tell)` and imports only what it needs.

torch, scikit-learn and Flower take seconds to import, so the worker loads the module of its own role and no other.
"""
