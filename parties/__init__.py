"""A bank's side: keys, deposits, the client, and what it does with a release."""
