"""What is trained: tables, features, model families, federated rounds, bundles, and the worker that runs them."""
