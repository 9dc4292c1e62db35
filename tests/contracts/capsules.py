"""A capsule for tests of the law: small, and whole."""

from collections.abc import Mapping
from types import MappingProxyType

CODE = b"""import csv


def main():
    raise KeyError("a row")


main()
"""
DECLARATION = b"""capsule: 1
family: python
data: [cards.csv]
outputs:
  - {path: table.csv, kind: table, size-kib: 8, vetting: none}
"""
FILES: Mapping[str, bytes] = MappingProxyType(
    {
        "README.md": b"# A capsule\n",
        "code/analysis.py": CODE,
        "code/lib/helper.py": b"x = 1\n",
        "code/config-confidential.yml": b"rows: confidential\n",
        "code/run": b"#!/bin/sh\nexec python3 analysis.py\n",
        "data/cards.csv": b"card,amount\n1,2.5\n",
        "environment/Dockerfile": b"FROM python:3.11\n",
        "escrow.yml": DECLARATION,
        "metadata/metadata.yml": b"name: A capsule\n",
    }
)
