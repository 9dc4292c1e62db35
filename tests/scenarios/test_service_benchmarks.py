"""The benchmarks of the service with tiny numbers: real escrows and banks in processes of their own, over TLS."""

import shutil
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scenarios import tiny
from scenarios.benchmarks import deposit, lifecycle, load, recovery
from scenarios.benchmarks.child import HOST
from scenarios.benchmarks.kept import Kept, Told, entries, kept
from scenarios.benchmarks.served import Served
from scenarios.consortium import Consortium


def quiet(_: str) -> None:
    pass


def test_a_lifecycle_costs_as_many_statements_a_verb_with_five_parties_as_with_two() -> None:
    figures = lifecycle.run(quiet, parties=(2, 5), repeated=1, warm_up=1)
    assert figures.values["sql_per_verb_growth"] == 0
    assert figures.values["sql_n5"] > figures.values["sql_n2"] > figures.values["sql_propose_n2"] > 0
    assert figures.values["sql_rows_n5"] >= figures.values["sql_n5"]
    assert {"sql_propose_n5", "sql_view_n5", "sql_submit_n5", "sql_run-decided_n5", "sql_key-erased_n5"} < set(
        figures.values
    )
    for measured in ("cpu_ms_n5", "party_cpu_ms_n5", "wall_ms_n5", "connect_cpu_ms", "cpu_growth"):
        assert figures.values[measured] > 0
    assert {target.figure for target in figures.targets} == {"sql_per_verb_growth", "cpu_ms_n5", "cpu_growth"}


def test_a_load_loses_and_doubles_nothing() -> None:
    figures = load.run(quiet, load.Size(banks=3, contracts=6, processes=1, lengths=(20, 60), submitted=4))
    assert (figures.values["lost"], figures.values["doubled"]) == (0, 0)
    assert figures.values["acknowledged"] == 3 * 6
    assert figures.values["p99_ms"] >= figures.values["p50_ms"] > 0
    assert figures.values["latency_growth"] == figures.values["submit_ms_60"] / figures.values["submit_ms_20"]


def test_a_deposit_is_compared_with_its_parts() -> None:
    figures = deposit.run(quiet, mib=8, repeated=1)
    values = figures.values
    slower = min(values["encrypt_mb_per_second"], values["stream_mb_per_second"])
    assert values["ratio_to_limit"] == pytest.approx(values["deposit_mb_per_second"] / slower)
    assert 20 < values["client_mib"] < 512
    assert 20 < values["escrow_mib"] < 512


def test_a_killed_escrow_comes_back_with_everything() -> None:
    figures = recovery.run(quiet, kills=2)
    assert (figures.values["lost"], figures.values["doubled"]) == (0, 0)
    assert figures.values["acknowledged"] > 0
    assert figures.values["ready_seconds_max"] >= figures.values["ready_seconds"] > 0


def test_many_handshakes_at_once_do_not_end_the_escrow(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])

    def greet(port: int) -> None:
        with socket.create_connection((HOST, port), timeout=20) as line, context.wrap_socket(line) as tls:
            assert tls.version() == "TLSv1.3"

    with Served(tmp_path / "escrow") as served, ThreadPoolExecutor(16) as threads:
        list(threads.map(greet, [served.ready["enrolment"]] * 400))
        assert served.ask("usage")["cpu"] > 0


def test_what_is_lost_or_doubled_is_counted(found: Callable[..., Consortium], tmp_path: Path) -> None:
    consortium = found()
    contract = tiny.proposed(consortium)
    escrow = tmp_path / "copy"
    shutil.copytree(consortium.directory / "escrow", escrow)
    digests = [entry.envelope.digest for entry in entries(escrow)]
    proposed, opened = len(digests) - 2, len(digests) - 1
    seen = [(proposed, contract), (opened, contract)]
    true = Told([(proposed, digests[proposed])], seen)
    assert kept(escrow, {"north": true, "harbour": Told([], seen)}) == Kept(lost=0, doubled=0)
    unseen = Told([(opened, digests[proposed]), (len(digests), digests[0])], seen[:1])
    assert kept(escrow, {"north": unseen}) == Kept(lost=3, doubled=0)
    twice = Told([(proposed, digests[proposed]), (opened, digests[proposed])], [*seen, seen[0]])
    assert kept(escrow, {"north": twice}) == Kept(lost=1, doubled=2)
