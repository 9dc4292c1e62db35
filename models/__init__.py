"""What is trained: tables, features, model families, federated rounds, bundles, and the worker that runs them."""

import os

# On Linux onnxruntime reports to its maker from its import on, unless this is set before.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
