"""One model trained by the several processes that torchrun starts: DDP, or FSDP2 where it does not fit.

A step takes ``accumulate`` micro-batches over all processes and its gradient is their mean, so that the
result does not depend on how many processes share them. Batch normalisation is the exception: each process
normalises by its own micro-batches anyway, but its running means are those of process 0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

Result = TypeVar("Result")


@contextmanager
def processes() -> Iterator[None]:
    """Join the processes that torchrun started, for as long as the block lasts; alone, do nothing.

    Put it around a script's training: ``with processes(): fit(...)``. A model for a GPU belongs on "cuda"
    then, which is the process's own.

    Example:
        >>> with processes():
        ...     print(Group.present())
        Group(rank=0, size=1)
    """
    if not distributed.is_torchelastic_launched():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("cpu:gloo,cuda:nccl")
    else:
        distributed.init_process_group("gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


@dataclass(frozen=True)
class Group:
    """The processes that train together, seen from one of them."""

    rank: int  # of this process, from 0
    size: int

    @classmethod
    def present(cls) -> Group:
        """The group that was joined; without one, this process alone.

        Raises:
            ValueError: torchrun started several processes, and they were not joined.
        """
        if distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(
                "torchrun started several processes, but each would train alone: put the training into "
                "`with labkit.train.processes():`."
            )
        return cls(0, 1)

    def share(self, count: int) -> range:
        """Which of a step's ``count`` micro-batches are this process's.

        Raises:
            ValueError: they can't be dealt out evenly.
        """
        if count % self.size:
            raise ValueError(
                f"TrainConfig.accumulate, the micro-batches per step over all processes, is {count}, which "
                f"{self.size} processes can't share evenly; make it a multiple of {self.size}."
            )
        return range(self.rank, count, self.size)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the processes, in place."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def agree(self, value: float) -> float:
        """The value of process 0: where rounding differs, a decision must not."""
        return self._from_first(value)

    def first(self, action: Callable[[], Result]) -> Result:
        """Let process 0 act, and give everyone what it returned or raised.

        If only process 0 raised, the others would wait for it until torchrun ends them.
        """
        if self.size == 1:
            return action()
        outcome: tuple[Any, Exception | None] = (None, None)
        if self.rank == 0:
            try:
                outcome = (action(), None)
            except Exception as error:
                outcome = (None, error)
        result, failure = self._from_first(outcome)
        if failure is not None:
            raise failure
        return result

    def _from_first(self, value: Any) -> Any:
        if self.size > 1:
            box = [value]
            distributed.broadcast_object_list(box, src=0)
            return box[0]
        return value


class Alone:
    """A model in one process. The other two have the same methods."""

    def loss(self, step_loss: Callable[[int], torch.Tensor], micro: int, last: bool) -> torch.Tensor:
        """The loss of one micro-batch; ``last``: the step's last one in this process."""
        return step_loss(micro)

    def measure(self, valid: Callable[[], float]) -> float:
        """The value of ``valid``, every process computing all of it."""
        return valid()

    def close(self) -> None:
        """Make the model what it was, with the weights of now."""


class Copied(Alone):
    """A copy of the model in each process; the gradients are summed while they are computed (DDP)."""

    def __init__(self, model: nn.Module) -> None:
        # Which parameters a micro-batch uses may vary (the heads of several tasks), hence the search. Where
        # it does not, torch warns once that the search is wasted.
        self.step = DistributedDataParallel(_Call(model), find_unused_parameters=True)
        self.step.register_comm_hook(None, _summed)

    def loss(self, step_loss: Callable[[int], torch.Tensor], micro: int, last: bool) -> torch.Tensor:
        with nullcontext() if last else self.step.no_sync():
            return self.step(step_loss, micro)


class Sharded(Alone):
    """Each process keeps its part of every weight, gradient and moment (FSDP2, ``fully_shard``).

    A layer's weights are brought together just before it computes. Layers are those members of the model's
    ``nn.ModuleList``s that have parts of their own; the rest is brought together for the whole step, so that
    a weight may also be used outside of its layer. Every process must use the same parameters in a step.
    Source: Zhao et al., "PyTorch FSDP", VLDB 2023.
    """

    def __init__(self, model: nn.Module) -> None:
        self.places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}  # a tied parameter has several
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                self.places.setdefault(parameter, []).append((module, name))
        self.step = _Call(model)
        lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
        layers = dict.fromkeys(m for members in lists for m in members if any(True for _ in m.children()))
        # Inner layers before outer ones, as fully_shard wants it; modules() lists them the other way round.
        order = [*reversed([m for m in layers if not isinstance(m, nn.ModuleList)]), self.step]
        self.before = {module: (type(module), _hooks(module)) for module in order}
        self.layers = [fully_shard(module) for module in order]
        for layer in self.layers:
            layer.set_gradient_divide_factor(1.0)  # summed, as in _summed
            layer.set_force_sum_reduction_for_comms(True)  # or gloo would be asked for a product it lacks
        for parameter in self.places:
            parameter.data = parameter.data.new_empty(0)  # the caller's; it gets its values back in close()

    def loss(self, step_loss: Callable[[int], torch.Tensor], micro: int, last: bool) -> torch.Tensor:
        self.layers[-1].set_requires_gradient_sync(last)  # and all the layers below it
        return self.step(step_loss, micro)

    def measure(self, valid: Callable[[], float]) -> float:
        # Brought together outside of valid, which may run in inference mode: tensors made there can't be
        # trained afterwards. And kept together, or each batch of valid would gather everything anew.
        def gathered() -> float:
            for layer in self.layers:
                layer.unshard()
            return valid()

        for layer in self.layers:
            layer.set_reshard_after_forward(False, recurse=False)
        value = self.step(gathered)
        for layer in self.layers:
            layer.reshard()
            layer.set_reshard_after_forward(layer is not self.layers[-1], recurse=False)
        return value

    def close(self) -> None:
        values = {
            parameter: whole(getattr(*places[0]).detach()).clone()
            for parameter, places in self.places.items()
        }
        for module, (kind, hooks) in self.before.items():
            module.__class__ = kind
            module.__dict__.update(hooks)
        for parameter, places in self.places.items():
            parameter.data = values[parameter]
            parameter.grad = None
            for module, name in places:
                module.register_parameter(name, parameter)


def _summed(state, bucket):  # without annotations: DDP refuses those that are strings
    """The sum, where DDP would take the mean: each loss is divided by the micro-batches of all processes."""
    reduced = distributed.all_reduce(bucket.buffer(), async_op=True).get_future()
    return reduced.then(lambda future: future.value()[0])


class _Call(nn.Module):
    """Calls a function that uses the model, so that DDP and FSDP2 see the call whatever it uses of it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


def spread(model: nn.Module, group: Group, shard: bool) -> Alone:
    """Prepare a model for the group's processes; all of them start from process 0's weights."""
    if group.size == 1:
        return Alone()
    for tensor in model.state_dict().values():
        distributed.broadcast(tensor, src=0)
    return Sharded(model) if shard else Copied(model)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor brought together, which all processes must ask for; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: torch.Tensor, pattern: torch.Tensor) -> torch.Tensor:
    """A whole tensor on the device and in the pieces of ``pattern``."""
    if isinstance(pattern, DTensor):
        return distribute_tensor(tensor.to(pattern.device), pattern.device_mesh, pattern.placements)
    return tensor.to(pattern.device)


def _hooks(module: nn.Module) -> dict[str, Any]:
    return {name: value.copy() for name, value in module.__dict__.items() if "hooks" in name}
