"""The answer's sentences: few models at chance are named, those of a grid are counted."""

import pytest

from pipeline.answer import NAMED, answer
from pipeline.report.shape import Evaluation, Result


def evaluated(at_chance: int, models: int = 20) -> Evaluation:
    """Return so many models on a reference, all above chance there, the first of them not on the shift."""
    results: list[Result] = []
    for number in range(models):
        for name in ("photo", "sketch"):
            top1 = 0.1 if name == "sketch" and number < at_chance else 0.5
            one: Result = {
                "mixture": f"m{number}",
                "set": name,
                "n": 100,
                "correct": int(100 * top1),
                "top1": top1,
                "low": top1 - 0.05,
                "high": top1 + 0.05,
            }
            results.append(one)
    sets = [{"name": name, "images": 100, "classes": 10, "chance": 0.1} for name in ("photo", "sketch")]
    return {"reference": "photo", "sets": sets, "results": results}  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("at_chance", "said"),
    [
        (0, "Every model is above chance on every set by more than its 95 % interval."),
        (2, "Not above chance by more than the 95 % interval: m0 on sketch, m1 on sketch."),
        (NAMED + 1, f"Not above chance by more than the 95 % interval: {NAMED + 1} of 20 models on sketch."),
    ],
)
def test_models_at_chance_are_named_or_counted(at_chance: int, said: str) -> None:
    assert said in answer(evaluated(at_chance), [], [])
