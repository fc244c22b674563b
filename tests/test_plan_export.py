from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from coordinator.plan_export import export, load_class
from edge.training.dropout import Layout
from edge.training.plan_runtime import Program
from schemas.errors import PlanError
from schemas.plan import Stored
from schemas.plan_file import PlanFile
from schemas.plan_shapes import infer, outline

CLASSES = ("a", "b", "c")
torch.set_num_threads(1)


class Mixed(nn.Module):
    """Two inputs, writes in place, a residual, a shape that depends on the batch, and all the usual layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding="same")
        self.norm = nn.GroupNorm(2, 4)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d((2, 1))
        self.drop = nn.Dropout(0.5)
        self.mix = nn.Linear(8, 8)
        self.ln = nn.LayerNorm(8)
        self.out = nn.Linear(11, 3)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, image: Tensor, extra: Tensor) -> Tensor:
        hidden = self.pool(self.act(self.norm(self.conv(image))))
        rows = hidden.view(image.shape[0], -1)
        rows = rows + functional.gelu(self.mix(self.drop(rows)), approximate="tanh")
        rows = self.ln(rows) * self.scale * 0.5
        rows += 1
        return self.out(torch.cat([rows, extra[:, 1:]], dim=1))  # type: ignore[no-any-return]  # torch's typing


@pytest.fixture(scope="module")
def mixed() -> tuple[nn.Module, PlanFile]:
    torch.manual_seed(0)
    module = Mixed()
    return module, export(module, "mixed", {"image": (1, 6, 5), "extra": (4,)}, classes=CLASSES, report=("a",))


def run(
    file: PlanFile, *, training: bool, inputs: tuple[Tensor, ...], labels: Tensor, masks: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor]:
    values = [torch.from_numpy(array.copy()) for array in file.initial(0).arrays().values()]
    return Program(file.plan, training=training)(values, inputs, labels, torch.tensor([1.0, 2.0, 3.0]), masks)


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("training", [True, False])
def test_the_plan_computes_exactly_what_the_module_does(
    mixed: tuple[nn.Module, PlanFile], batch: int, *, training: bool
) -> None:
    """In training too: where the same values drop out, which are those of the module's dropout layer."""
    module, file = mixed
    masks = [2.0 * torch.randint(2, shape) for shape in Layout(file.plan, batch).shapes(batch)]
    inputs = torch.randn(batch, 1, 6, 5), torch.randn(batch, 4)
    labels = torch.arange(batch) % 3
    loss, logits = run(file, training=training, inputs=inputs, labels=labels, masks=masks if training else ())
    with contextlib.ExitStack() as after:
        if training:
            drop = module.get_submodule("drop")
            after.enter_context(drop.register_forward_hook(lambda _, given, __: given[0] * masks[0]))
        expected = module.train(training)(*inputs)
    assert torch.equal(logits, expected)
    assert torch.equal(loss, functional.cross_entropy(expected, labels, torch.tensor([1.0, 2.0, 3.0])))


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: x.transpose(1, 2).contiguous().flatten(1),
        lambda x: x.transpose(1, 2).reshape(x.shape[0], -1),
        lambda x: x.transpose(1, 2).clone(memory_format=torch.contiguous_format).flatten(1),
        lambda x: (2 * x).long().float().flatten(1),
        lambda x: x.flatten(1) / (x.shape[0] // 2 + 1),
        lambda x: x.flatten(1) * (x.shape[0] * 2 - 7),
        lambda x: x.flatten(1) - x.sum((1, 2), dtype=torch.float32)[:, None],
    ],
)
def test_copies_casts_and_sums_of_the_batchs_size_are_steps_of_a_plan(forward: Callable[[Tensor], Tensor]) -> None:
    """Beside an input that is called as a step would be.

    Seen to fail with a plan that had the memory format for an argument, with one sum taken for another or refused, and
    with two of the same name.
    """
    module = Own(forward)
    x, labels = torch.randn(5, 2, 4), torch.tensor([0, 1, 2, 0, 1])
    file = export(module, "own", {"matmul": (2, 4)}, classes=tuple("abcdef"))
    infer(file.plan, 5)
    values = [torch.from_numpy(array.copy()) for array in file.initial(0).arrays().values()]
    _, logits = Program(file.plan, training=False)(values, (x,), labels, torch.ones(6))
    assert torch.equal(logits, module(x))


def test_a_plans_inputs_may_be_called_as_its_steps_would_be() -> None:
    """Seen to fail with two steps of one name, and without one for the second."""

    class Two(Own):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
            return x @ self.weight + y @ self.weight

    module, x, y = Two(), torch.randn(5, 4), torch.randn(5, 4)
    file = export(module, "two", {"matmul": (4,), "matmul_0": (4,)}, classes=CLASSES)
    _, logits = run(file, training=False, inputs=(x, y), labels=torch.tensor([0, 1, 2, 0, 1]))
    assert torch.equal(logits, module(x, y))


def test_the_plan_says_what_the_export_was_told(mixed: tuple[nn.Module, PlanFile]) -> None:
    plan = mixed[1].plan
    assert [entry.name for entry in plan.inputs] == ["image", "extra"]
    assert (plan.classes, plan.report, plan.data) == (CLASSES, ("a",), "windows")
    assert [p.name for p in plan.parameters] == [name for name, _ in mixed[0].named_parameters()]
    assert all(isinstance(p.init, Stored) for p in plan.parameters)
    layers = {operation.layer for operation in plan.operations}
    assert layers - {""} <= {f"{name} ({type(each).__name__})" for name, each in mixed[0].named_modules() if name}
    assert {"", "conv (Conv2d)"} <= layers
    assert outline(plan)[plan.logits] == "Bx3"


def test_exporting_leaves_the_module_and_the_generator_as_they_were() -> None:
    module = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3)).eval()
    before = torch.random.get_rng_state()
    export(module, "net", {"x": (4,)}, classes=CLASSES)
    assert not module.training
    assert torch.equal(before, torch.random.get_rng_state())


def test_log_probabilities_take_the_nll_loss() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(dim=1))
    file = export(module, "net", {"x": (4,)}, classes=CLASSES, loss="nll")
    x, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    loss, _ = run(file, training=True, inputs=(x,), labels=labels)
    assert torch.equal(loss, functional.nll_loss(module(x), labels, torch.tensor([1.0, 2.0, 3.0])))


def test_tied_weights_are_one_parameter() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = nn.Linear(4, 4)
            self.second.weight = self.first.weight
            self.out = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.second(self.first(x)))  # type: ignore[no-any-return]  # torch's typing

    module = Tied()
    file = export(module, "tied", {"x": (4,)}, classes=CLASSES)
    x = torch.randn(2, 4)
    assert [p.name for p in file.plan.parameters] == [
        "first.weight",
        "first.bias",
        "second.bias",
        "out.weight",
        "out.bias",
    ]
    assert torch.equal(run(file, training=False, inputs=(x,), labels=torch.zeros(2, dtype=torch.int64))[1], module(x))


def test_seeded_values_start_as_torch_documents_it() -> None:
    module = nn.Sequential(nn.Linear(100, 3), nn.LayerNorm(3))
    file = export(module, "net", {"x": (100,)}, classes=CLASSES, seeded=True)
    arrays = file.initial(0).arrays()
    assert not file.stored
    assert 0.09 < abs(arrays["0.weight"]).max() <= 0.1
    assert arrays["1.weight"].tolist() == [1, 1, 1]
    assert arrays["1.bias"].tolist() == [0, 0, 0]


class Own(nn.Module):
    """One parameter, and whatever a test has it do."""

    def __init__(self, forward: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 3))
        self.then = forward

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight if self.then is None else self.then(x @ self.weight)


def frozen() -> nn.Module:
    module = nn.Linear(4, 3)
    module.bias.requires_grad_(False)
    return module


def buffered() -> nn.Module:
    module = nn.Linear(4, 3)
    module.register_buffer("mean", torch.zeros(3))
    return module


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), r"layer 1 \(BatchNorm1d\): use GroupNorm"),
        (nn.Sequential(nn.LSTM(4, 3)), r"layer 0 \(LSTM\): use 1-D convolutions"),
        (nn.Sequential(nn.Linear(4, 3), nn.Threshold(0.1, 0)), r"1 \(Threshold\) uses the operation 'threshold'"),
        (Own(lambda x: torch.randn_like(x) + x), "'randn_like', which no plan may: use nn.Dropout"),
        (Own(lambda x: x.sort(dim=1)[0]), "the model uses the operation 'sort"),
        (
            nn.Sequential(Own(lambda x: torch.native_dropout(x, 0.5, True)[1].float())),
            r"0 \(Own\) uses 'dropout', .* slice instead",
        ),
        (Own(lambda x: x.to("cpu", copy=True)), "'_to_copy', which no plan may"),
        (Own(lambda x: torch.cat(x.chunk(3, dim=1), dim=1)), "uses the operation 'chunk'|'split"),
        (Own(lambda x: x + torch.tensor([1.0, 2.0, 3.0])), "a constant tensor"),
        (Own(lambda x: x if x.sum() > 0 else -x), "can't be exported .* branches on values of its inputs"),
        (Own(lambda x: x[:, :2]), "can't be exported with the inputs x=4 and 3 classes"),
        (nn.Linear(5, 3), "can't be exported with the inputs x=4 and 3 classes: mat1 and mat2"),
        (nn.Linear(4, 3).double(), "float64: a plan's parameters are float32"),
        (buffered(), "mean is a buffer"),
        (frozen(), "bias is frozen"),
    ],
)
def test_a_module_that_makes_no_plan_is_refused_with_the_layer_and_the_reason(module: nn.Module, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        export(module, "net", {"x": (4,)}, classes=CLASSES)


def test_a_layer_whose_start_no_seed_gives_is_refused_only_where_a_seed_is_asked_for() -> None:
    with pytest.raises(PlanError, match=r"layer itself \(Own\) has 12 values that no seed gives"):
        export(Own(), "net", {"x": (4,)}, classes=CLASSES, seeded=True)
    assert set(export(Own(), "net", {"x": (4,)}, classes=CLASSES).stored) == {"weight"}


class Halves(nn.Module):
    """Makes a window from its first half."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.fill = nn.Linear(4, size)

    def forward(self, window: Tensor) -> Tensor:
        return self.fill(window[:, :4])  # type: ignore[no-any-return]  # torch's typing


def test_a_reconstruction_has_each_example_s_error_in_place_of_logits() -> None:
    """Seen to fail where the error is summed over a window rather than averaged."""
    module = Halves(8)
    file = export(module, "halves", {"window": (8,)}, classes=("window",), loss="mse")
    assert (file.plan.learns, outline(file.plan)[file.plan.logits]) == ("reconstruction", "Bx1")
    windows = torch.randn(5, 8)
    values = [torch.from_numpy(array.copy()) for array in file.initial(0).arrays().values()]
    loss, errors = Program(file.plan, training=True)(
        values, (windows,), torch.zeros(5, dtype=torch.int64), torch.ones(1)
    )
    torch.testing.assert_close(errors[:, 0], ((module(windows) - windows) ** 2).mean(1))
    torch.testing.assert_close(loss, functional.mse_loss(module(windows), windows))


def test_a_reconstruction_of_another_shape_or_with_classes_is_refused() -> None:
    with pytest.raises(PlanError, match="gives its first input anew: Bx8, not Bx7"):
        export(Halves(7), "halves", {"window": (8,)}, classes=("window",), loss="mse")
    with pytest.raises(PlanError, match="a reconstruction has one"):
        export(Halves(8), "halves", {"window": (8,)}, classes=CLASSES, loss="mse")


def test_an_unknown_loss_is_refused_with_those_there_are() -> None:
    with pytest.raises(PlanError, match="use one of cross_entropy, nll, mse"):
        export(nn.Linear(4, 3), "net", {"x": (4,)}, classes=CLASSES, loss="huber")


SOURCE = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 3))

class Needy(nn.Linear):
    pass

answer = 42
"""


def test_a_class_is_loaded_from_the_operators_file(tmp_path: Path) -> None:
    file = tmp_path / "my_models.py"
    file.write_text(SOURCE)
    assert isinstance(load_class(f"{file}:Net"), nn.Sequential)


def test_a_class_that_was_edited_a_moment_ago_is_the_edited_one(tmp_path: Path) -> None:
    """To the same length within the same second. Seen to fail with compiled files in use."""
    file = tmp_path / "net.py"
    for width in (4, 5):
        file.write_text(f"from torch import nn\nclass Net(nn.Flatten):\n    width = {width}\n")
        os.utime(file, (1e9, 1e9))
        made = load_class(f"{file}:Net")
        assert made.width == width
    assert not list(tmp_path.glob("__pycache__"))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("my_models.py", "write it as models.py:Net"),
        ("gone.py:Net", "a file that exists"),
        ("my_models.py:Gone", "no nn.Module called 'Gone'; it has: Net, Needy"),
        ("my_models.py:answer", "no nn.Module called 'answer'"),
        ("my_models.py:Needy", "can't be loaded: TypeError"),
        ("broken.py:Net", "can't be loaded: SyntaxError"),
        ("notes.txt:Net", "not a Python file"),
        ("script.py:Net", "script.py ends this program as it is loaded; put what it does"),
    ],
)
def test_what_can_not_be_loaded_is_refused_saying_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, says: str
) -> None:
    (tmp_path / "my_models.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("class Net(")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "script.py").write_text("import argparse\nargparse.ArgumentParser().parse_args(['--input'])\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlanError, match=says):
        load_class(source)
