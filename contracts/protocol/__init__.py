"""The wire that both sides agreed on; the one room of the law that imports gRPC."""

import os

# gRPC writes lines of its own to stderr, which belongs to the command's user. Errors come as exceptions anyway.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
