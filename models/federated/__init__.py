"""Federated training: the only room that imports Flower. It combines what several parties trained, or fails closed.

A party's side: `client` answers, `outbox` holds what did not fit into one message. The side that asks: `roster` asks
every party and takes exactly one answer of each, `checks` says what an answer must be before it counts, `methods`
combines, `rounds` is the loop, `checkpoint` what is kept of it, `own` fetches the parties' own models. Between them:
`records` is the vocabulary of both, `vectors` how parameters travel, `encoding` how messages become bytes and `plain`
what bytes may become messages, `grid` how these reach parties in one process, `door` and `socketgrid` how they reach
them in sealed workers of their own. Flower's own engines run the same: `superlink` (with `superlink_apps`,
`superlink_keys`), `raygrid`, and `hosted`, `hostgrid` and `child`, which both need.
"""
