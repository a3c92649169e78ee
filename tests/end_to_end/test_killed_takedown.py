"""A takedown that is killed at any write ends, once it is run again, as one that was not."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jobs.cli.main import main
from pipeline.errors import StageFailed
from pipeline.ledger.journal import check_none_unfinished, unfinished_takedowns
from pipeline.ledger.tables import Ledger
from pipeline.provenance.verify import verify
from pipeline.storage.store import Store
from pipeline.takedown.impact import TakedownImpact
from pipeline.takedown.journal import Intent
from pipeline.takedown.request import parse_request
from pipeline.takedown.takedown import CodeVersion, finish_all, plan_takedown, take_down
from tests.support.takedown_store import build, content, everything, rows

CODE = CodeVersion("code", {})


BY_NAME = {one.name: one for one in rows()}


NAMED = BY_NAME["named"]


MADE = [BY_NAME[name] for name in ("alpha0", "beta0", "named", "same_url", "alike", "same_stored", "not_the_site")]


NEEDLES = [NAMED.url, NAMED.caption, BY_NAME["alike"].caption, BY_NAME["same_url"].caption]


class Killed(BaseException):
    """Stands for SIGKILL: nothing that cleans up may catch it."""


@dataclass(frozen=True)
class Mortal(Store):
    """A store that dies at one of its writes: `left` counts down to it."""

    left: list[int] = field(default_factory=list, compare=False)

    def step(self) -> None:
        """Die, if it is time."""
        self.left[0] -= 1
        if self.left[0] == 0:
            raise Killed

    @contextmanager
    def create(self, relative: str, named: Callable[[], str] | None = None) -> Iterator[Any]:
        try:
            with super().create(relative, named) as stream:
                yield stream
                self.step()
        except Killed:  # what a process that is gone cannot remove
            Path(f"{self.path(relative)}.0.draft").write_bytes(NAMED.jpg)
            raise

    def remove(self, relative: str) -> None:
        self.step()
        super().remove(relative)


class MortalLedger(Ledger):
    """A ledger that dies before a commit; to die behind one is to die before the next write."""

    def _committed(self, table: str, schema: Any, append: Any, *create: Any) -> bool:
        assert isinstance(self.store, Mortal)
        self.store.step()
        return super()._committed(table, schema, append, *create)


def run(ledger: Ledger) -> None:
    """Do what the command does."""
    finish_all(ledger, CODE)
    intent, places = plan_takedown(ledger, parse_request(NAMED.uid, "list"), "asked", 31)
    if intent.uids or intent.tombstones:
        take_down(ledger, intent, CODE, places)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("killed_takedown") / "store"
    build(root, MADE)
    return root


@pytest.fixture(scope="module")
def ended(whole: Path) -> dict[str, Any]:
    """What is in the store once a takedown was not killed."""
    root = Path(shutil.copytree(whole, whole.with_name("ended")))
    run(Ledger(Store(str(root))))
    return content(Store(str(root)))


@pytest.fixture(scope="module")
def plan(whole: Path) -> tuple[Intent, TakedownImpact]:
    """What is to be done, the same in every copy of the store."""
    return plan_takedown(Ledger(Store(str(whole))), parse_request(NAMED.uid, "list"), "asked", 31)


def killed_at(whole: Path, root: Path, plan: tuple[Intent, TakedownImpact], step: int) -> bool:
    """Take down in a copy until a write, and tell whether it came to it."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(whole, root)
    try:
        take_down(MortalLedger(Mortal(str(root), [step])), plan[0], CODE, plan[1])
    except Killed:
        return True
    return False


@pytest.mark.slow  # some forty takedowns
def test_killed_at_any_write_it_ends_the_same(
    whole: Path, ended: dict[str, Any], plan: tuple[Intent, TakedownImpact], tmp_path: Path
) -> None:
    root, step = tmp_path / "store", 1
    while killed_at(whole, root, plan, step):
        begun = unfinished_takedowns(Store(str(root)))
        if begun:
            finish_all(Ledger(Store(str(root))), CODE)
        else:  # before it was written down, or behind its end
            run(Ledger(Store(str(root))))
        assert begun or step == 1 or step > 40
        assert content(Store(str(root))) == ended, f"killed at write {step}"
        step += 1
    assert step > 40
    assert content(Store(str(root))) == ended


@pytest.mark.parametrize("step", [3, 15, 25, 35])
def test_killed_and_killed_again_no_byte_stays(
    whole: Path, ended: dict[str, Any], plan: tuple[Intent, TakedownImpact], tmp_path: Path, step: int
) -> None:
    root = tmp_path / "store"
    assert killed_at(whole, root, plan, step)
    with pytest.raises(Killed):
        run(MortalLedger(Mortal(str(root), [9])))
    run(Ledger(Store(str(root))))
    assert content(Store(str(root))) == ended
    assert verify(Ledger(Store(str(root))), False, lambda done, total: None) == []
    held = everything(root)
    assert NAMED.jpg not in held
    for needle in NEEDLES:
        assert needle.encode() not in held


def test_what_was_begun_is_said_by_others_and_finished_by_any_takedown(
    whole: Path,
    ended: dict[str, Any],
    plan: tuple[Intent, TakedownImpact],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "store"
    assert killed_at(whole, root, plan, 20)
    with pytest.raises(StageFailed, match=f"a takedown is unfinished; finish with: cuvee takedown {root}"):
        check_none_unfinished(Store(str(root)))
    assert main(["verify", str(root)]) == 1
    assert "a takedown is unfinished" in capsys.readouterr().out
    files = Store(str(root)).files("")
    assert main(["verify", str(root), "--prune"]) == 1
    assert Store(str(root)).files("") == files
    assert main(["takedown", str(root)]) == 0
    assert "finished an unfinished takedown" in capsys.readouterr().out
    found = content(Store(str(root)))
    assert {key: value for key, value in found.items() if key != "jobs"} == {
        key: value for key, value in ended.items() if key != "jobs"
    }
    assert main(["verify", str(root)]) == 0
