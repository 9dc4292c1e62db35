"""A bare gRPC stream over TLS: `python -m scenarios.benchmarks.bare DIRECTORY` takes bytes and counts them.

What any upload over gRPC has to pay: the same bytes in the same messages from one process to another, not looked at,
not kept. The server shows the certificate of the escrow in DIRECTORY.
"""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import grpc

from contracts.protocol import escrow_pb2 as pb
from escrow.authority import Authority
from parties.channel import open_channel
from scenarios.benchmarks.child import HOST, ORIGIN, serve

SERVICE: Final = "model_escrow.benchmarks.Bare"


def stream(address: str, authorities: bytes, chunks: Iterator[bytes]) -> int:
    """Send the chunks; how many bytes have arrived."""
    with open_channel(address, grpc.ssl_channel_credentials(authorities), ORIGIN) as channel:
        take: Any = channel.stream_unary(f"/{SERVICE}/Take", pb.DepositRequest.SerializeToString)
        return int(take(pb.DepositRequest(data=chunk) for chunk in chunks))


def main(directory: Path) -> None:
    """Serve until nobody asks any more."""

    def take(messages: Iterator[pb.DepositRequest], _: grpc.ServicerContext) -> bytes:
        return str(sum(len(message.data) for message in messages)).encode()

    authority = Authority.open(directory)
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_registered_method_handlers(
        SERVICE, {"Take": grpc.stream_unary_rpc_method_handler(take, pb.DepositRequest.FromString)}
    )
    credentials = grpc.ssl_server_credentials([authority.server(int(time.time()))])
    port = server.add_secure_port(f"{HOST}:0", credentials)
    server.start()
    serve({"address": f"{HOST}:{port}"}, {})
    server.stop(None).wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
