"""The bundled plans: each is what its source exports to, small, and fits the data of its recipe."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from coordinator.plans.digits import Digits
from coordinator.plans.ecg_beats import EcgBeats
from coordinator.plans.ecg_masked import EcgMasked
from coordinator.plans.export import PLANS
from coordinator.plans.watch import Watch
from edge.sources import RECIPES
from edge.sources.digits import CLASSES as DIGITS
from edge.sources.ecg_beats import CLASSES as BEATS
from edge.sources.watch import CLASSES as EXERCISES
from edge.training.plan_runtime import Program
from schemas.plan_cost import Limits, check
from schemas.plan_file import find

MODULES: dict[str, type[nn.Module]] = {
    "digits": Digits,
    "ecg-beats": EcgBeats,
    "ecg-weak": EcgBeats,
    "ecg-masked": EcgMasked,
    "watch": Watch,
}
torch.set_num_threads(1)


@pytest.mark.parametrize("name", PLANS)
def test_the_file_is_what_its_source_exports_to(name: str) -> None:
    """Otherwise run `python -m coordinator.plans.export`."""
    assert find(name).plan == PLANS[name]().plan


@pytest.mark.parametrize("name", PLANS)
def test_the_plan_computes_exactly_what_its_module_does(name: str) -> None:
    file = find(name)
    module = MODULES[name]().eval()
    values = {key: torch.from_numpy(array.copy()) for key, array in file.initial(0).arrays().items()}
    module.load_state_dict(values)
    inputs = [torch.randn(3, *entry.shape) for entry in file.plan.inputs]
    classes = len(file.plan.classes)
    labels = torch.arange(3) % classes
    _, logits = Program(file.plan, training=False)(list(values.values()), inputs, labels, torch.ones(classes))
    made = module(*inputs)
    if file.plan.learns == "reconstruction":
        made = (made - inputs[0]).pow(2).mean(1, keepdim=True)  # the error of each example stands in place of logits
    assert torch.equal(logits, made)


@pytest.mark.parametrize("name", PLANS)
def test_initial_values_spread_as_the_modules_own(name: str) -> None:
    arrays = find(name).initial(0).arrays()
    for key, parameter in MODULES[name]().named_parameters():
        assert arrays[key].shape == tuple(parameter.shape)
        if parameter.numel() > 100:
            assert arrays[key].std() == pytest.approx(parameter.std().item(), rel=0.25)


@pytest.mark.parametrize("name", PLANS)
def test_a_device_takes_it_and_it_is_a_page_of_text(name: str) -> None:
    plan = find(name).plan
    check(plan, 256, Limits())
    assert len(plan.to_bytes()) < 5000


@pytest.mark.parametrize(
    ("name", "classes"),
    [("digits", DIGITS), ("watch", EXERCISES), ("ecg-beats", BEATS), ("ecg-weak", BEATS), ("ecg-masked", ("beat",))],
)
def test_it_fits_its_recipe(name: str, classes: tuple[str, ...]) -> None:
    plan = find(name).plan
    assert plan.data == name
    assert RECIPES[plan.data].form.shapes == tuple(entry.shape for entry in plan.inputs)
    assert plan.classes == classes


def test_sizes_are_those_the_documents_give() -> None:
    assert find("ecg-beats").plan.manifest().size == 2_837
    assert find("ecg-weak").plan.manifest() == find("ecg-beats").plan.manifest()
    assert find("ecg-masked").plan.manifest().size == 5_233
    assert find("digits").plan.manifest().size == 431_080
    assert find("ecg-beats").plan.report == ("N", "S", "V")
