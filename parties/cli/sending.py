"""Sending a deposit while a person watches."""

from parties.cli.screen import progress
from parties.client import Client
from parties.sending import Content, Sent, deposit


def send(client: Client, content: Content) -> Sent:
    """Deposit something, with a bar; see `parties.sending.deposit`."""
    with progress(f"Sending {content.part}") as told:
        return deposit(client, content, told)
