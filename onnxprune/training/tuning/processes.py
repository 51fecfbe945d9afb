"""Several processes that take each step together: Hugging Face Accelerate starts them and carries numbers between them.

Each process has all samples and the whole network, and takes its part of every batch. Gradients are added up, so that
all take the same step and keep the same weights; the main process alone judges, tells, saves and writes. Nothing of
Accelerate or PyTorch is imported here until several processes were started: the command line asks who it is.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from onnxprune.errors import OptionError

if TYPE_CHECKING:
    import torch

    Tensor: TypeAlias = torch.Tensor

Said = TypeVar("Said")
_STARTED = "RANK", "WORLD_SIZE"  # variables of processes that were started together
_BY_ACCELERATE = "ACCELERATE_"  # that all variables of it begin with
_PRECISIONS = {"no": None, "bf16": "bfloat16"}


class Carrier(Protocol):
    """What carries numbers between processes."""

    def reduce(self, tensor: Any, reduction: str) -> Any:
        """Return the sum of the tensors of all processes."""

    def from_main(self, value: Any) -> Any:
        """Return what the main process has."""

    def leave(self) -> None:
        """Let the others go."""


def started() -> int:
    """Return how many processes were started together; 1 where there is this one alone.

    Variables that are no numbers are not of what starts processes.
    """
    texts = [os.environ.get(name, "") for name in _STARTED]
    return max(1, int(texts[-1])) if all(text.isdecimal() for text in texts) else 1


def helps() -> bool:
    """Return whether this process only helps another one, which prints and writes."""
    return started() > 1 and int(os.environ["RANK"]) > 0


def helper_name() -> str:
    """Return how a process that only helps begins its messages; nothing for any other."""
    return f"process of rank {int(os.environ['RANK'])}: " if helps() else ""


@dataclass(frozen=True, eq=False)
class Processes:
    """The processes of a run, as one of them sees them."""

    rank: int = 0
    count: int = 1
    carrier: Carrier | None = None  # None: this one is alone
    device: str | None = None  # where this one computes; None: as it likes

    @property
    def is_main(self) -> bool:
        """Whether this one judges, tells, saves and writes."""
        return self.rank == 0

    def share(self, samples: int, step: int = 1, turn: int = 0) -> range:
        """Return the places of the samples of a run that this process takes; all together take each once.

        >>> [list(Processes(rank, 2).share(5)) for rank in (0, 1)]
        [[0, 1], [2, 3, 4]]
        >>> [list(Processes(rank, 2).share(4, step=4, turn=1)) for rank in (0, 1)]
        [[0, 1, 2, 3], []]

        Args:
            samples: of the run.
            step: samples that a model takes at once: a part is a multiple of that.
            turn: of the run, so that short ones are not always those of the same process.
        """
        place, blocks = (self.rank + turn) % self.count, -(-samples // step)
        start, stop = (min(samples, blocks * each // self.count * step) for each in (place, place + 1))
        return range(start, stop)

    def whole(self, own: Tensor, share: range, samples: int) -> Tensor:
        """Return numbers for each sample of a run ``[samples, ...]``, of those that each process has for its share."""
        if self.carrier is None:
            return own
        numbers = own.new_zeros((samples, *own.shape[1:]))
        numbers[share.start : share.stop] = own
        return self.total(numbers)

    def total(self, numbers: Tensor) -> Tensor:
        """Return the sum over all processes."""
        if self.carrier is None:
            return numbers
        added: Tensor = self.carrier.reduce(numbers, "sum")
        return added

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Give all processes the sum of their gradients."""
        if self.carrier is None:
            return
        torch: Any = importlib.import_module("torch")
        slopes = [each.grad for each in parameters if each.grad is not None]
        together = self.total(torch.cat([each.flatten() for each in slopes]))
        for slope, part in zip(slopes, together.split([each.numel() for each in slopes]), strict=True):
            slope.copy_(part.view_as(slope))

    def variance(self, values: Tensor) -> Tensor:
        """Return the variance of the numbers of all processes."""
        if self.carrier is None:
            return values.var(unbiased=False)
        numbers = values.double()
        count, added = self.total(numbers.new_tensor([numbers.numel(), numbers.sum()])).tolist()
        mean = added / max(1, count)
        result: Tensor = (self.total((numbers - mean).square().sum()) / max(1, count)).to(values.dtype)
        return result

    def of_main(self, value: Said) -> Said:
        """Return what the main process has."""
        if self.carrier is None:
            return value
        heard: Said = self.carrier.from_main(value)
        return heard

    def leave(self) -> None:
        """Let the other processes go: nothing will be said any more."""
        if self.carrier is not None:
            self.carrier.leave()


ALONE = Processes()


# -- Accelerate --------------------------------------------------------------------------------------------


class _Accelerate:
    """The functions of Accelerate that are used."""

    def __init__(self, accelerator: Any, operations: Any) -> None:
        self._accelerator, self._operations = accelerator, operations

    def reduce(self, tensor: Any, reduction: str) -> Any:
        return self._accelerator.reduce(tensor, reduction=reduction)

    def from_main(self, value: Any) -> Any:
        return self._operations.broadcast_object_list([value])[0]

    def leave(self) -> None:
        self._accelerator.end_training()


def processes_of(device: str) -> Processes:
    """Return the processes that were started together; `ALONE` where there is one.

    Args:
        device: as `TuneOptions` has it.

    Raises:
        OptionError: when Accelerate is not installed, or has another device.
    """
    if started() == 1:
        return ALONE
    try:
        accelerate = importlib.import_module("accelerate")
    except ImportError:
        raise OptionError("several processes need Accelerate: pip install 'onnxprune[accelerate]'") from None
    accelerator = accelerate.Accelerator(cpu=device == "cpu")
    kind = accelerator.device.type
    if device not in ("auto", kind):
        raise OptionError(f"device {device} is not what Accelerate gives this process: it has {kind}")
    carrier = _Accelerate(accelerator, accelerate.utils)
    return Processes(accelerator.process_index, accelerator.num_processes, carrier, str(accelerator.device))


def launched_precision(precision: str | None) -> str | None:
    """Return the precision of a run: that of ``accelerate launch --mixed_precision`` where there is one.

    Raises:
        OptionError: when that is another one than bf16.
    """
    name = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if name not in _PRECISIONS:
        raise OptionError(f"mixed precision {name} of Accelerate is not known here: bf16 is, or no")
    return _PRECISIONS[name] or precision


def check_alone(command: str) -> None:
    """Make sure that one process runs a command that several cannot share.

    Raises:
        OptionError: when Accelerate started several.
    """
    if started() > 1 and any(name.startswith(_BY_ACCELERATE) for name in os.environ):
        raise OptionError(f"several processes can share tune, not {command}: start it without Accelerate")
