"""The table in escrow/README.md names the probes that there are, and every probe is one that a test asks for."""

import re
from pathlib import Path

from tests.attacks.escapes import catalogue
from tests.attacks.escapes.catalogue import PROBES, Probe
from tests.attacks.escapes.stage import HOSTILE
from tests.attacks.escapes.table import README, main, renewed


def test_the_table_is_what_the_probes_are() -> None:
    assert main([]) == 0
    assert renewed(renewed("# escrow\n")) == renewed("# escrow\n")
    assert README.read_text(encoding="utf-8").count("| passed |") >= len(PROBES)


def test_there_are_many_and_each_has_one_name() -> None:
    names = [probe.name for probe in PROBES]
    assert len(names) == len(set(names)) >= 40


def test_every_probe_is_a_parameter_of_a_test() -> None:
    """Each group of the catalogue is taken whole by a test, and each attempt and deed has its program."""
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_escapes_*.py"))
    groups = set(re.findall(r"parametrize\([^\n]*?\b([A-Z_]{4,})\b", tests)) | {"AMID"}
    found = [getattr(catalogue, group) for group in groups]
    taken = [probe for group in found for probe in ((group,) if isinstance(group, Probe) else group)]
    assert {probe.name for probe in PROBES} == {probe.name for probe in taken}


def test_every_attempt_and_deed_has_its_program() -> None:
    programs = {path.stem: path.read_text(encoding="utf-8") for path in HOSTILE.glob("*.py")}
    attempts = set(re.findall(r'@attempt\("([a-z0-9-]+)"', "".join(programs.values())))
    assert attempts == {probe.name for probe in (*catalogue.ATTEMPTS, *catalogue.DOOR)}
    assert {probe.name for probe in catalogue.DEEDS} <= set(re.findall(r"^def (\w+)", programs["limits"], re.MULTILINE))
