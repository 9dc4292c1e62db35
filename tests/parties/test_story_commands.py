"""Two banks' whole way, by their commands alone: from their keys to a verified model and a verified ledger."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from contracts.document import read_mapping
from contracts.schema import Schema
from parties.draft import to_yaml

Call = Callable[..., tuple[int, str, str]]
Ask = Callable[..., dict[str, Any]]


def test_two_banks_from_their_keys_to_a_verified_model(
    call: Call,
    ask: Ask,
    founded: Callable[..., Any],
    drawn: Callable[[int], pa.Table],
    schema: Schema,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    consortium = founded()
    server, core = consortium.server, consortium.core
    home = {name: tmp_path / name for name in ("north", "harbour")}
    (tmp_path / "schema.yaml").write_text(to_yaml(schema.model_dump(mode="json", by_alias=True)))

    for seed, name in enumerate(home):
        code, out, _ = call("init", name, "--home", home[name])
        assert code == 0
        [fingerprint] = [line.strip() for line in out.splitlines() if line.startswith("  ed25519:")]
        assert (home[name] / "policy.yml").read_text().startswith("# What this bank never approves")
        where = f"127.0.0.1:{server.ports.enrolment}"
        code, out, _ = call("enrol", where, "--fingerprint", core.signer.key_id, "--home", home[name])
        assert code == 0
        assert "the operator must admit it" in out
        [waiting] = server.requests.waiting()
        assert (waiting.name, waiting.fingerprint) == (name, fingerprint)
        server.requests.admit(name, fingerprint)
        assert ask("enrol", "--home", home[name])["data"]["admitted"] is True
        table = tmp_path / f"{name}.parquet"
        pyarrow.parquet.write_table(drawn(seed), table)
        code, out, err = call("dataset", "add", table, "--schema", tmp_path / "schema.yaml", "--home", home[name])
        assert code == 0, err
        assert out.count("sha256-salted:") == 2

    contract = tmp_path / "contract.yaml"
    init = ("--partner", "harbour", "--family", "logistic", "--method", "pooled", "--min-positives", "5")
    code, out, err = call("contract", "init", *init, "--out", contract, "--home", home["north"])
    assert code == 0, err
    document = read_mapping(contract.read_bytes(), "contract.yaml", what="contract", begin="")
    document["release"] = [
        {"kind": "no-harm", "party": name, "metric": "average-precision", "margin": 1.0, "min-positives": 5}
        for name in home
    ]
    contract.write_text(to_yaml(document))
    assert call("contract", "validate", contract)[0] == 0
    assert "For harbour" in call("contract", "explain", contract)[1]

    digest = ask("contract", "propose", contract, "--home", home["north"])["data"]["digest"]
    short = digest[7:15]
    assert ask("status", "--home", home["harbour"])["data"]["waiting"][0]["digest"] == digest
    assert short in call("status", "--home", home["harbour"])[1]

    monkeypatch.setattr("sys.stdin", io.StringIO(f"{short}\n"))
    code, out, err = call("contract", "approve", short, "--home", home["harbour"])
    assert (code, out.partition(",")[0]) == (0, "Approved")
    for words in ("For harbour", "This bank, harbour", "looks", "0 so far at this holdout", "allows it"):
        assert words in err
    assert "For north" not in err
    assert ask("contract", "approve", "--digest", digest, "--home", home["north"])["data"]["state"] == "approved"

    assert core.run(digest).state == "released"

    code, out, _ = call("contract", "watch", short, "--until-ended", "--since", 0, "--home", home["north"])
    assert code == 0
    assert out.splitlines()[-1].startswith("It has ended: released")
    code, out, err = call("release", "fetch", short, "--home", home["harbour"])
    assert code == 0
    assert "Verified: use this model." in out
    assert [line[:2] for line in err.splitlines()] == [f"{number}." for number in range(1, 9)]
    folder = home["harbour"] / "releases" / short
    assert call("release", "verify", folder, "--home", home["harbour"])[0] == 0
    scores = tmp_path / "scores.csv"
    argv = ("release", "score", folder, tmp_path / "harbour.parquet", "--out", scores, "--home", home["harbour"])
    assert ask(*argv)["data"]["rows"] == 1500

    note = tmp_path / "north.note"
    assert call("ledger", "head", "--out", note, "--home", home["north"])[0] == 0
    code, out, err = call("ledger", "verify", "--head", note, "--home", home["harbour"])
    assert code == 0
    assert "continues 1 head of other parties" in out
    assert "cosigned by north" in err
    again = ask("ledger", "verify", "--home", home["harbour"])["data"]
    assert again["size"] == json.loads(json.dumps(again))["size"] == core.ledger.size()
