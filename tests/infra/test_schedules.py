"""Timer units and the crontab: systemd reads them without a complaint, and what they call is there."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from jobs.cli.main import build_parser
from tests.support.road_experiment import ROOT

UNITS = sorted((ROOT / "infra" / "systemd").iterdir())


SYSTEMD = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze (Debian: systemd) is absent"
)


def analyzed(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False, env={"NO_COLOR": "1"}
    )


@pytest.fixture
def installed(tmp_path: Path) -> list[Path]:
    """The units for an experiment, with the project's folder in the place of /srv/cuvee, where nothing lies here."""
    made = []
    for unit in UNITS:
        path = tmp_path / unit.name.replace("@", "@mine")
        text = unit.read_text("utf-8").replace("/srv/cuvee", str(ROOT))
        path.write_text(re.sub(r"^(User|Group)=.*\n", "", text, flags=re.MULTILINE), "utf-8")
        made.append(path)
    return made


@SYSTEMD
def test_systemd_reads_every_unit_without_a_complaint(installed: list[Path]) -> None:
    assert len(installed) == 4
    for unit in installed:
        done = analyzed("verify", "--man=no", unit)
        mine = [line for line in done.stderr.splitlines() if "cuvee" in line]
        assert (done.returncode, mine) == (0, []), done.stderr


@SYSTEMD
def test_a_key_that_systemd_does_not_know_would_be_found(installed: list[Path]) -> None:
    unit = next(one for one in installed if one.name == "cuvee@mine.service")
    unit.write_text(unit.read_text("utf-8").replace("ProtectClock=", "ProtectClocks="), "utf-8")
    assert "ProtectClocks" in analyzed("verify", "--man=no", unit).stderr


@SYSTEMD
def test_the_services_are_hardened_as_far_as_java_allows(installed: list[Path]) -> None:
    services = [one for one in installed if one.suffix == ".service"]
    assert services
    for unit in services:
        done = analyzed("security", "--offline=true", "--threshold=35", unit)
        assert done.returncode == 0, done.stdout[-2000:]


@SYSTEMD
@pytest.mark.parametrize("unit", [one for one in UNITS if one.suffix == ".timer"], ids=lambda one: one.name)
def test_timers_are_of_utc_and_make_up_for_what_was_missed(unit: Path) -> None:
    text = unit.read_text("utf-8")
    when = re.search(r"^OnCalendar=(.*)$", text, re.MULTILINE)
    assert when
    assert when[1].endswith(" UTC")
    assert "Persistent=true" in text
    assert analyzed("calendar", when[1]).returncode == 0


def commands() -> list[list[str]]:
    """Return what the units and the crontab run, as argument lists from the project's folder."""
    units = [re.findall(r"^ExecStart=(.*)$", one.read_text("utf-8"), re.MULTILINE) for one in UNITS]
    lines = [line for found in units for line in found]
    crontab = (ROOT / "infra" / "cron" / "cuvee").read_text("utf-8")
    for line in crontab.splitlines():
        if match := re.fullmatch(r"\d+ \d+ \* \* \*  cuvee  cd /srv/cuvee && (.*)", line):
            assert "%" not in match[1], "to cron that is the end of the line"
            lines.append(match[1].split(">")[0])
    return [shlex.split(line.replace("/srv/cuvee/", "").replace("%i", "mine")) for line in lines]


def test_what_they_call_is_a_command_that_there_is() -> None:
    called = commands()
    assert len(called) == 4
    for command, *arguments in called:
        assert command in (".venv/bin/cuvee", ".venv/bin/python")
        if command == ".venv/bin/cuvee":
            assert build_parser().parse_args(arguments).until == "report"
        else:
            assert (ROOT / arguments[0]).is_file()
