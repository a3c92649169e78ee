"""Recipes: a budget in whole batches and epochs, and arguments that open_clip_train takes as they are meant."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import hardware
from pipeline.errors import InputError
from pipeline.training.recipe import check_flags, open_clip_arguments, samples_in_passes
from tests.support.small_trainings import RECIPE, refused


@given(st.integers(1, 10**7), st.integers(1, 4096), st.integers(1, 50))
def test_the_samples_are_as_few_as_fill_batches_and_epochs_of_one_length(samples: int, batch: int, epochs: int) -> None:
    recipe = replace(RECIPE, samples_seen=samples, batch_size=batch, epochs=epochs)
    assert recipe.samples - batch * epochs < samples <= recipe.samples == recipe.steps * batch * epochs


@given(st.integers(1, 20), st.integers(1, 1000), st.integers(1, 100))
def test_each_pass_over_an_export_is_an_epoch_of_its_whole_batches(passes: int, batches: int, rest: int) -> None:
    pairs = batches * 100 + rest % 100
    recipe = replace(RECIPE, samples_seen=samples_in_passes(passes, pairs, 100), batch_size=100, epochs=passes)
    assert (recipe.steps, recipe.samples) == (batches, passes * batches * 100)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"batch-size": 3}, "training.flags.batch-size: expected to be set by the recipe's own key"),
        ({"train_data": "pipe:rm"}, "training.flags.train_data: expected to be set by the recipe's own key"),
        ({"save-most-recent": False}, "training.flags.save-most-recent: expected to be set by the recipe's own key"),
        ({"dist-url": "tcp://0.0.0.0:1"}, "training.flags.dist-url: expected to be set by the recipe's own key"),
        ({"no-such-flag": 1}, "training.flags.no-such-flag: 1: open_clip_train refuses it: "),
        ({"beta1": "much"}, "training.flags.beta1: 'much': open_clip_train refuses it: "),
        ({"grad-checkpointing": "please"}, "open_clip_train refuses it"),
        ({"beta1": 0.9, "accum-freq": "a\nb"}, "open_clip_train refuses it"),
    ],
)
def test_flags_that_cannot_be_are_refused_in_one_line(flags: dict[str, Any], said: str) -> None:
    assert said in refused(lambda: check_flags(flags, "training.flags"), InputError)


def test_flags_that_open_clip_train_knows_are_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    flags = {"beta1": 0.8, "grad_checkpointing": True, "lock-text": False, "log-every-n-steps": 7, "aug-cfg": "a=1 b=2"}
    check_flags(flags, "training.flags")
    given = open_clip_arguments(
        replace(RECIPE, flags=flags), [Path("/e/0.tar"), Path("/e/1.tar")], Path("/m"), Path("/out")
    )
    assert given.count("--log-every-n-steps") == 1
    assert given[given.index("--log-every-n-steps") + 1] == "7"
    assert given[given.index("--aug-cfg") + 1 :][:2] == ["a=1", "b=2"]
    assert "--grad-checkpointing" in given
    assert "--lock-text" not in given
    assert given[given.index("--train-data") + 1] == "/e/0.tar::/e/1.tar"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("quick", "expected"), [(True, "amp_bf16"), (False, "fp32")])
def test_the_precision_auto_is_what_the_processor_is_quick_in(
    quick: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "has_bf16", lambda: quick)
    for asked, said in (("auto", expected), ("fp32", "fp32"), ("amp_bf16", "amp_bf16")):
        given = open_clip_arguments(replace(RECIPE, precision=asked), [Path("/e/0.tar")], Path("/m"), Path("/out"))
        assert given[given.index("--precision") + 1] == said


@pytest.mark.parametrize(("devices", "bf16", "expected"), [(0, True, "cpu"), (2, True, "cuda"), (1, False, "cuda")])
def test_the_device_auto_is_cuda_where_torch_sees_one(
    devices: int, bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: devices > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: devices)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: bf16 or including_emulation)
    monkeypatch.setattr(hardware, "has_bf16", lambda: False)
    recipe = replace(RECIPE, precision="auto", device="auto", batch_size=12, processes=2)
    given = open_clip_arguments(recipe, [Path("/e/0.tar")], Path("/m"), Path("/out"))
    assert given[given.index("--device") + 1] == expected
    assert given[given.index("--precision") + 1] == ("amp_bf16" if devices and bf16 else "fp32")
    assert given[given.index("--batch-size") + 1] == "6"
    assert hardware.resolve_device("cpu") == "cpu"


def test_a_run_is_cut_into_epochs_and_goes_on_from_what_it_kept() -> None:
    paths = [Path("/e/0.tar")], Path("/m"), Path("/out")
    recipe = replace(RECIPE, epochs=4)
    first, again = (
        open_clip_arguments(recipe, *paths),
        open_clip_arguments(recipe, *paths, resume=Path("/out/state.pt")),
    )
    for key, value in {"epochs": "4", "train-num-samples": "48", "save-frequency": "0"}.items():
        assert first[first.index(f"--{key}") + 1] == value
    assert "--save-most-recent" in first
    assert "--resume" not in first
    assert again[again.index("--resume") + 1] == "/out/state.pt"
