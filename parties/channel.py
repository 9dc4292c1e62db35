"""The connection to an escrow, and what the network's failures mean for a bank."""

from typing import Final

import grpc

from contracts.enrolment import server_host
from contracts.errors import EscrowError
from contracts.protocol import convert

_RETRIED: Final = """{"methodConfig": [
 {"name": [{}], "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "2s", "backoffMultiplier": 3,
  "retryableStatusCodes": ["UNAVAILABLE"]}},
 {"name": [{"service": "model_escrow.v1.Escrow", "method": "Deposit"},
           {"service": "model_escrow.v1.Escrow", "method": "Join"}]}]}"""
"""What is sent as a stream is not gRPC's to repeat: repeated by it after a cut, one lost a message (grpcio 1.85)."""
_LOST: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN})


def open_channel(address: str, credentials: grpc.ChannelCredentials, ledger: str) -> grpc.Channel:
    """A channel to the escrow of a ledger, whose certificate names the host of the ledger's origin."""
    options = [
        ("grpc.ssl_target_name_override", server_host(ledger)),
        ("grpc.max_receive_message_length", 8 << 20),
        ("grpc.service_config", _RETRIED),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.enable_retries", 1),
    ]
    return grpc.secure_channel(address, credentials, options)


def failure(error: grpc.RpcError) -> EscrowError:
    """What a failed call means for a bank."""
    problem = next((each.value for each in error.trailing_metadata() or () if each.key == "problem-bin"), None)
    if isinstance(problem, bytes):
        return convert.from_problem(problem)
    status, details = error.code(), error.details() or ""
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return EscrowError("escrow-slow", "The escrow did not answer in time.")
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        large = "larger than" in details or "metadata size" in details
        code = "message-refused" if large else "escrow-crowded"
        return EscrowError(
            code, "The message is larger than is taken." if large else "The escrow takes no more calls now."
        )
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return EscrowError("escrow-untrusted", "Whoever answers there does not hold the pinned escrow's certificate.")
    if status in _LOST:
        return EscrowError("escrow-unreachable", "The escrow cannot be reached, or the connection was lost.")
    return EscrowError("message-refused", f"The escrow did not take the call ({status.name}).")
