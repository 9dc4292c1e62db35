"""A bank's side: keys, deposits, the client, and what it does with a release."""

import contracts.protocol  # noqa: F401 - first of all: it settles how gRPC speaks TLS
