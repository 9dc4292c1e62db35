"""The wire that both sides agreed on; the one room of the law that imports gRPC.

gRPC for Python has no option for the lowest version of TLS, and would take 1.2. But 1.2 needs a cipher suite that fits
the certificate: our keys are ECDSA, and the one suite that is offered for 1.2 is for RSA, so nothing but TLS 1.3, whose
suites cannot be chosen, is ever agreed on. gRPC reads the choice once, when it is imported; so both sides import this
room first of all, and a server that comes too late refuses to start (`tls_settled`).
"""

import os
import sys
from typing import Final

_SUITES: Final = {"GRPC_SSL_CIPHER_SUITES": "ECDHE-RSA-AES128-GCM-SHA256"}
_EARLY: Final = "grpc" not in sys.modules or _SUITES.items() <= os.environ.items()

os.environ.update(_SUITES)
# gRPC writes lines of its own to stderr, which belongs to the command's user. Errors come as exceptions anyway.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def tls_settled() -> bool:
    """Whether nothing but TLS 1.3 is spoken in this process."""
    return _EARLY
