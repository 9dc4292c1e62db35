"""Capsules on their author's machine: made from a template, read, checked, and run as the escrow will run them."""
