"""The published tables of ../shared/data/reference: fits and effective robustness as its README states them."""

import csv
from pathlib import Path

import numpy as np
import pytest

from pipeline.robustness.axes import LINEAR, LOGIT, PROBIT, Axis, Floats, to_axis
from pipeline.robustness.effective import EffectiveRobustness, effective_robustness
from pipeline.robustness.intervals import clopper_pearson
from pipeline.robustness.lines import Line, fit_line
from pipeline.robustness.paired_accuracy import PairedAccuracies, SetAccuracies
from pipeline.robustness.trends import trend_lines
from tests.support.road_experiment import ROOT

TABLES = ROOT.parent / "shared/data/reference"


VAL, V2 = "val", "imagenetv2-matched-frequency-format-val"


VAL_OF_OBJECTNET, OBJECTNET = "val-on-objectnet-classes", "objectnet-1.0-beta"


#: Images of each set: the only numbers with which all percentages are of whole counts.
IMAGES = {VAL: 50_000, V2: 10_000, VAL_OF_OBJECTNET: 6_250, OBJECTNET: 18_514}


CLIP = "resnet50_clip_zeroshot"


pytestmark = pytest.mark.skipif(not TABLES.is_dir(), reason="the tables of ../shared/data/reference are absent")


def rows(name: str) -> list[dict[str, str]]:
    with Path(TABLES / name).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def measured_from(reference: str, shift: str) -> EffectiveRobustness:
    """Effective robustness from the baseline of the ImageNet testbed, on logit axes."""
    table = rows("imagenet_testbed_top1.csv")
    assert len(table) == 338
    table = [row for row in table if row[shift]]  # three models of the table have a name and no accuracies
    assert len(table) == 335
    sets = []
    for name in (reference, shift):
        counts = np.array([float(row[name]) / 100 * IMAGES[name] for row in table])
        assert counts == pytest.approx(np.rint(counts), abs=0.005)
        sets.append(SetAccuracies.from_counts(np.rint(counts).astype(int), IMAGES[name]))
    standard = [row["model"] for row in table if row["standard"] == "1"]
    return effective_robustness(PairedAccuracies(*sets), [row["model"] for row in table], standard, LOGIT, draws=50)


@pytest.mark.parametrize(
    ("reference", "shift", "slope", "intercept", "r2", "points"),
    [
        (VAL, V2, 0.9232, -0.4977, 0.9960, 5.7937),
        (VAL_OF_OBJECTNET, OBJECTNET, 0.9809, -1.9283, 0.9525, 17.8457),
    ],
)
def test_the_testbed_is_fitted_as_published(
    reference: str, shift: str, slope: float, intercept: float, r2: float, points: float
) -> None:
    found = measured_from(reference, shift)
    assert len(found.fitted_on) == 85
    assert CLIP not in found.fitted_on
    line = found.baseline
    assert (line.slope, line.intercept, line.r2) == pytest.approx((slope, intercept, r2), abs=5.1e-5)
    assert 100 * found.of(CLIP) == pytest.approx(points, abs=5.1e-5)
    at = found.models.index(CLIP)
    assert 0 < found.low[at] < found.values[at] < found.high[at]


def cifar() -> tuple[list[int], list[int]]:
    table = rows("cifar10_1_correct_counts.csv")
    assert len(table) == 30
    assert {(row["original_n"], row["v4_n"]) for row in table} == {("10000", "2021")}
    return [int(row["original_correct"]) for row in table], [int(row["v4_correct"]) for row in table]


def cifar_line(axis: Axis) -> Line:
    original, new = cifar()
    x: Floats = to_axis(axis, np.array(original) / 10_000, 10_000).values
    line = fit_line(axis, x, to_axis(axis, np.array(new) / 2021, 2021).values)
    assert line is not None
    return line


def test_cifar_10_1_is_fitted_as_published() -> None:
    line = cifar_line(LINEAR)
    assert (line.slope, 100 * line.intercept, line.r2) == pytest.approx((1.6166, -65.5094, 0.9887), abs=5.1e-5)
    assert cifar_line(PROBIT).slope == pytest.approx(0.9515, abs=5.1e-5)
    assert [100 * end for end in clopper_pearson(1879, 2021)] == pytest.approx([91.7711, 94.0498], abs=5.1e-5)


def test_the_published_line_lies_in_its_band() -> None:
    original, new = cifar()
    evidence = PairedAccuracies(SetAccuracies.from_counts(original, 10_000), SetAccuracies.from_counts(new, 2021))
    line = trend_lines(evidence, ["all"] * 30, LINEAR, draws=400).of("all")
    slope = line.slope_interval()
    assert slope.low < 1.6166 < slope.high
    assert slope.low > 1.4
    assert slope.high < 1.9
