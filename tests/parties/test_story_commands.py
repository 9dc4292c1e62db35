"""Two banks' whole way, by their commands alone: from their keys to a verified model and a verified ledger."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from contracts.document import read_mapping
from contracts.schema import Schema
from parties.draft import to_yaml
from scenarios.consortium import Consortium

Call = Callable[..., tuple[int, str, str]]
Ask = Callable[..., dict[str, Any]]


@dataclass
class Story:
    """What happens between an operator and two banks."""

    call: Call
    ask: Ask
    consortium: Consortium
    folder: Path

    def home(self, name: str) -> tuple[str, Path]:
        return ("--home", self.folder / name)

    def enrolled(self, name: str) -> None:
        """Keys are made; the operator admits the request whose fingerprint the bank reads out."""
        server = self.consortium.server
        assert server
        code, out, _ = self.call("init", name, *self.home(name))
        assert code == 0
        [fingerprint] = [line.strip() for line in out.splitlines() if line.startswith("  ed25519:")]
        assert (self.folder / name / "policy.yml").read_text().startswith("# What this bank never approves")
        where = f"127.0.0.1:{server.ports.enrolment}"
        pin = self.consortium.core.signer.key_id
        code, out, _ = self.call("enrol", where, "--fingerprint", pin, *self.home(name))
        assert (code, fingerprint in out) == (0, True)
        assert "the operator must admit it" in out
        [waiting] = server.requests.waiting()
        assert (waiting.name, waiting.fingerprint) == (name, fingerprint)
        server.requests.admit(name, fingerprint)
        assert self.ask("enrol", *self.home(name))["data"]["admitted"] is True

    def deposited(self, name: str, table: pa.Table, schema: Path) -> None:
        pyarrow.parquet.write_table(table, self.folder / f"{name}.parquet")
        add = ("dataset", "add", self.folder / f"{name}.parquet", "--schema", schema)
        code, out, err = self.call(*add, *self.home(name))
        assert code == 0, err
        assert out.count("sha256-salted:") == 2

    def proposed(self) -> str:
        """A contract is drawn up, edited and proposed by north; its digest."""
        file = self.folder / "contract.yaml"
        terms = ("--partner", "harbour", "--family", "logistic", "--method", "pooled", "--min-positives", "5")
        code, _, err = self.call("contract", "init", *terms, "--out", file, *self.home("north"))
        assert code == 0, err
        document = read_mapping(file.read_bytes(), file.name, what="contract", begin="")
        no_harm = {"kind": "no-harm", "metric": "average-precision", "margin": 1.0, "min-positives": 5}
        document["release"] = [{**no_harm, "party": name} for name in ("north", "harbour")]
        file.write_text(to_yaml(document))
        assert self.call("contract", "validate", file)[0] == 0
        assert "For harbour" in self.call("contract", "explain", file)[1]
        assert self.ask("policy", "check", file, *self.home("north"))["data"] == {"allowed": True, "violations": []}
        return str(self.ask("contract", "propose", file, *self.home("north"))["data"]["digest"])


def test_two_banks_from_their_keys_to_a_verified_model(
    *,
    call: Call,
    ask: Ask,
    founded: Callable[..., Consortium],
    drawn: Callable[[int], pa.Table],
    schema: Schema,
    types: Callable[[str], None],
    tmp_path: Path,
) -> None:
    story = Story(call, ask, founded(), tmp_path)
    core = story.consortium.core
    (tmp_path / "schema.yaml").write_text(to_yaml(schema.model_dump(mode="json", by_alias=True)))
    for seed, name in enumerate(("north", "harbour")):
        story.enrolled(name)
        story.deposited(name, drawn(seed), tmp_path / "schema.yaml")
    digest = story.proposed()
    short = digest[7:15]
    north, harbour = story.home("north"), story.home("harbour")

    assert [each["digest"] for each in ask("status", *harbour)["data"]["waiting"]] == [digest]
    assert short in call("status", *harbour)[1]
    types(f"{short}\n")
    code, out, err = call("contract", "approve", short, *harbour)
    assert (code, out.partition(",")[0]) == (0, "Approved")
    for words in ("For harbour", "This bank, harbour", "0 so far at this holdout", "policy allows it"):
        assert words in err
    assert "For north" not in err
    assert ask("contract", "approve", "--digest", digest, *north)["data"]["state"] == "approved"

    assert core.run(digest).state == "released"

    code, out, _ = call("contract", "watch", short, "--until-ended", *north)
    assert (code, out.splitlines()[-1].startswith("It has ended: released")) == (0, True)
    code, out, err = call("release", "fetch", short, *harbour)
    assert (code, out.startswith("DEVELOPMENT: this run was not sealed."), "Verified." in out) == (0, True, True)
    assert [line[:2] for line in err.splitlines()] == [f"{number}." for number in range(1, 9)]
    folder = tmp_path / "harbour" / "releases" / short
    assert call("release", "verify", folder, *harbour)[0] == 0
    score = ("release", "score", folder, tmp_path / "harbour.parquet", "--out", tmp_path / "scores.csv")
    assert ask(*score, *harbour)["data"]["rows"] == 1500

    assert call("ledger", "head", "--out", tmp_path / "north.note", *north)[0] == 0
    code, out, err = call("ledger", "verify", "--head", tmp_path / "north.note", *harbour)
    assert (code, "It continues 1 head of other parties" in out) == (0, True)
    assert "cosigned by north" in err
    assert ask("ledger", "verify", *harbour)["data"]["size"] == core.ledger.size()
    assert ask("status", *harbour)["data"]["waiting"] == []
