"""Federated training: the only room that imports Flower. It averages what several parties trained, or fails closed.

`client` is a party's side, `grid` how messages reach it, `rounds` the loop, `checks` what an answer must be before it
counts.
"""
