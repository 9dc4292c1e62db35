"""How long the escrow's own certificates last: of its authority and of its server."""

from cryptography import x509

from escrow.authority import Authority


def days_left(authority: Authority, now: int) -> dict[str, float]:
    """Days until the current authority's certificate ends, and the server's, which is renewed first if it is due.

    Raises:
        EscrowError: `certificate-expired` if the authority's own time is over.
    """
    _, server = authority.server(now)
    found = {"authority": authority.authorities()[0].encode(), "server": server}
    return {name: (_end(pem) - now) / 86400 for name, pem in found.items()}


def _end(pem: bytes) -> float:
    return x509.load_pem_x509_certificates(pem)[0].not_valid_after_utc.timestamp()


__all__ = ["days_left"]
