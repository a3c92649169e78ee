"""A clean room: from the published metadata and the experiment file alone the same exports are made again."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.finished_road import Road
from tests.support.road_experiment import cuvee

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_exports_made_again_have_the_same_sha256(road: Road, tmp_path: Path) -> None:
    experiment = Path(shutil.copy(road.experiment, tmp_path))
    done = cuvee("run", str(experiment), "--until", "export", "--set", f"store={tmp_path}/store", timeout=1500)
    assert done.returncode == 0, done.stderr
    found, expected = (
        {
            path.relative_to(store): {name: tar["sha256"] for name, tar in json.loads(path.read_text())["tars"].items()}
            for path in (store / "exports").glob("*/*/manifest.json")
        }
        for store in (tmp_path / "store", road.store)
    )
    assert len(expected) >= 2
    assert found == expected
