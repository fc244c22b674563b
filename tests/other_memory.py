"""A device with a memory of its own, as a GPU has one, that computes on the CPU: what forgets to move a tensor fails.

Its tensors say that they are on ``PLACE``, so autograd and ``vmap`` take them there, while their values lie in a
tensor of the CPU's. An operation on values from both memories raises, as CUDA's do, and copies share nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

PLACE: Final = "meta"  # the one device beside the CPU that every build of PyTorch has
_ATEN: Final = torch.ops.aten
_MOVES: Final = (_ATEN._to_copy, _ATEN.copy_)


class _There(Tensor):
    """A tensor in the other memory."""

    here: Tensor  # with its values

    @staticmethod
    def __new__(cls: type[Self], here: Tensor) -> Self:
        made = Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=torch.device(PLACE),
        )
        made.here = here
        return made

    def tolist(self) -> Any:
        """Subclasses have none of their own."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]  # torch's typing
        return _computed(func, args, kwargs or {})


class _Dispatch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's typing
    """Sees every operation, those that make a tensor included."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Made(TorchFunctionMode):
    """Has ``torch.tensor`` make values before it moves them, which it does not for this device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and "device" in kwargs:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


@contextmanager
def another_memory() -> Iterator[None]:
    """Within, ``PLACE`` is a device that computes."""
    with _Dispatch(), _Made():  # type: ignore[no-untyped-call]  # likewise
        yield


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What ``func`` gives, in the memory that it gives it in."""
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    there = [each for each in tensors if isinstance(each, _There)]
    elsewhere = any(not isinstance(each, _There) and each.ndim for each in tensors)  # a number may come from anywhere
    operation = func.overloadpacket
    if there and elsewhere and operation not in _MOVES:
        raise RuntimeError(f"{func}: expected all tensors on one device, found two")
    stays = isinstance(args[0], _There) if operation is _ATEN.copy_ else bool(there)
    if (device := kwargs.get("device")) is not None:
        stays = torch.device(device).type == PLACE
        kwargs = {**kwargs, "device": torch.device("cpu")}
    args, kwargs = tree_map_only(_There, lambda each: each.here, (args, kwargs))
    given = func(*args, **kwargs)
    if not stays:
        return given
    changed = {id(each.here): each for each in there}  # in place: the tensor remains the one it was
    return tree_map_only(Tensor, lambda each: changed[id(each)] if id(each) in changed else _There(each), given)
