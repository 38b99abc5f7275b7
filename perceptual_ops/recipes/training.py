"""What a training loop needs around its own few lines: processes, precision, checkpoints and a log."""

from __future__ import annotations

import gc
import json
import math
import random
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from .. import _checks as checks
from .._failures import reason
from ..networks.checkpoint_files import check_finite_state
from .checkpoint import RESTART_HINT, load_checkpoint, save_checkpoint
from .crops import RandomCrops, check_memory
from .optimization import DivergenceError, StepCallback
from .processes import joined
from .training_files import TrainingFiles
from .training_log import READ_EVERY, Log

RESUMABLE_OPTIONS = ("workers", "save_every", "strict")  # options that may change from one part of a run to the next
MAX_LR = 1e30  # Adam divides it, and overflows beyond; no network stands a millionth of a millionth of it
WARM_UP = 0.1  # of all steps
Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TrainingOptions:
    """How a network is trained.

    Attributes:
        steps: Batches.
        batch: Crops of a batch, of all processes together.
        size: Pixels of a side of a crop.
        lr: Adam's largest step size; it rises over the first tenth of the steps, then falls to 0 along a cosine.
        seed: Seed of weights, crops and all that the network draws.
        precision: "fp32", or "bf16" and "fp16" of autocast; "fp16" with dynamic loss scaling.
        channels_last: Memory layout of network and images.
        compile: Whether torch.compile is used on the network.
        workers: Processes that read pictures; 0: the training process itself.
        save_every: Steps between checkpoints.
        strict: Whether a picture that cannot be read ends the run, in place of being left out with a warning.
    """

    steps: int = 2000
    batch: int = 4
    size: int = 256
    lr: float = 1e-3
    seed: int = 0
    precision: Precision = "fp32"
    channels_last: bool = True
    compile: bool = False
    workers: int = 0
    save_every: int = 100
    strict: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "size", "save_every"):
            checks.check_whole(name, getattr(self, name), 1)
        checks.check_whole("workers", self.workers, 0)
        checks.check_seed(self.seed)
        if checks.check_positive("lr", self.lr) > MAX_LR:
            raise ValueError(f"lr: expected at most {MAX_LR:g}, got {self.lr!r}")
        object.__setattr__(self, "lr", float(self.lr))  # of numpy it would be nothing that a checkpoint may hold
        checks.check_choice("precision", self.precision, tuple(PRECISIONS))

    def lr_factor(self, done: int) -> float:
        """The factor on `lr` after `done` steps. Adam's first steps rest on a gradient or two and move all weights at
        once: at full size they would throw a network that starts near the solution far off."""
        rising = (done + 1) / math.ceil(WARM_UP * self.steps)
        return min(rising, 1.0) * (1 + math.cos(math.pi * done / self.steps)) / 2


class Training:
    """One run of a training loop, in one process or in each of those that torchrun started::

        with Training(make_network, crops, Path("model.safetensors"), options, device, settings) as training:
            for images in training.batches():
                with training.autocast():
                    loss = criterion(training.network(images), images)
                training.update(loss, {"loss": loss.detach()})
            training.finish(lambda network: save_model("model.safetensors", network, "style"))

    Beside `out` lie the log (.log.csv), its plot (.log.png) and, until `finish`, the checkpoint (.checkpoint) from
    which the same call goes on after a kill. A step is a function of the seed, its number and what a checkpoint holds,
    so the curve is the same as without the kill.

    Args:
        make_network: Makes the network, after torch's random numbers were seeded.
        crops: Images by their number.
        out: The model to be, .safetensors, in a folder that exists.
        options: See there.
        device: What to train on; under torchrun with GPUs the process's own.
        settings: What else decides the curve, by name; a checkpoint of other settings is refused.
        on_step: Called after each step, in the first process only, with how many are done and the numbers of the last
            one that was logged.

    Raises:
        ValueError: A batch that the processes cannot share evenly; a checkpoint of other settings.
        DivergenceError: The loss or the weights became NaN or infinity; a ValueError.
        ChildProcessError: A process that reads pictures was killed.
    """

    def __init__(
        self,
        make_network: Callable[[], nn.Module],
        crops: Dataset[Tensor],
        out: Path,
        options: TrainingOptions,
        device: torch.device,
        settings: Mapping[str, Any],
        on_step: StepCallback | None = None,
    ) -> None:
        self.out: Path = out
        self.options: TrainingOptions = options
        self.crops: Dataset[Tensor] = crops
        self.files: TrainingFiles = TrainingFiles(out)
        self.files.check()
        self._on_step = on_step
        self._pool = crops.pool if isinstance(crops, RandomCrops) else None
        if self._pool is not None:
            self._pool.speaks = False  # the readers of a batch are several
            self._pool.strict |= options.strict
        kept = {name: value for name, value in asdict(options).items() if name not in RESUMABLE_OPTIONS}
        self.settings: dict[str, Any] = json.loads(
            json.dumps({**kept, **settings}, default=float)
        )  # numbers of numpy as Python's
        self.device: torch.device
        self.rank: int
        self.processes: int
        self.device, self.rank, self.processes, self._joined = joined(device)
        try:
            self._begin(make_network)
        except BaseException:
            self._leave()
            raise

    def _begin(self, make_network: Callable[[], nn.Module]) -> None:
        options = self.options
        if options.batch % self.processes:
            raise ValueError(f"batch: expected a multiple of the {self.processes} processes, got {options.batch}")
        check_memory(options.batch // self.processes, options.size)
        torch.manual_seed(options.seed)
        self.model: nn.Module = make_network().to(self.device)
        if options.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(self.model.parameters(), lr=options.lr)
        self.schedule: torch.optim.lr_scheduler.LambdaLR = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, options.lr_factor
        )
        self.scaler: torch.amp.GradScaler = torch.amp.GradScaler(self.device.type, enabled=options.precision == "fp16")
        self.done: int = 0  # steps
        self.log: Log = Log(self.files.log, self.rank, self.processes)
        self._resume()
        self.network: nn.Module = self._wrapped()  # what the loop calls

    @property
    def checkpoint(self) -> Path:
        return self.files.checkpoint

    def __enter__(self) -> Training:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if trace is not None and self._joined:
            traceback.clear_frames(trace)  # one may hold DDP
        self._leave()
        if isinstance(error, KeyboardInterrupt) and self.checkpoint.exists():
            raise KeyboardInterrupt("the same command goes on from the last checkpoint") from None

    def _leave(self) -> None:
        if self._joined:
            # DDP must not be the last to hold the group: it would end the group's thread with Python's lock in its
            # hand, and where that thread waits for the lock, both wait for ever (torch 2.13).
            self.network = nn.Identity()
            gc.collect()
            dist.destroy_process_group()

    def batches(self) -> Iterator[Tensor]:
        """This process's share (n, 3, size, size) of the batch of each step that is left, on the device."""
        options, share = self.options, self.options.batch // self.processes
        numbers = (
            step * options.batch + self.rank * share + number
            for step in range(self.done, options.steps)
            for number in range(share)
        )
        loader = DataLoader(
            self.crops,
            share,
            sampler=numbers,
            num_workers=options.workers,
            pin_memory=self.device.type == "cuda",
        )
        layout = torch.channels_last if options.channels_last else torch.contiguous_format
        for step, images in enumerate(self._loaded(loader), self.done):
            if step != self.done:
                raise RuntimeError("batches: expected one update for each batch")
            torch.manual_seed(random.Random(f"{options.seed} {self.done} {self.rank}").getrandbits(32))
            yield images.to(self.device, non_blocking=True).contiguous(memory_format=layout)

    def _loaded(self, loader: DataLoader[Tensor]) -> Iterator[Tensor]:
        """The batches, with a warning of each picture that could not be read."""
        try:
            for number, images in enumerate(loader):
                if self.processes == 1 or number % READ_EVERY == 0:
                    self._tell_unreadable()
                yield images
        except ValueError:
            if self._pool is not None:
                self._pool.tell(aloud=False)  # no picture is left: in a sentence, without the traceback of a reader
            raise
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise ChildProcessError(
                f"workers: expected {self.options.workers} processes that read pictures, one was killed, by too little "
                f"memory or by a picture ({reason(error)}); the same run with workers=0 shows which"
            ) from error

    def _tell_unreadable(self) -> None:
        if self._pool is None:
            return
        if self.processes > 1:
            damaged = self._pool.damaged.to(self.device)
            dist.all_reduce(damaged, dist.ReduceOp.MAX)
            self._pool.damaged.copy_(damaged)
        self._pool.tell(aloud=self.rank == 0)

    def autocast(self) -> AbstractContextManager[Any]:
        dtype = PRECISIONS[self.options.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def update(self, loss: Tensor, numbers: Mapping[str, Tensor]) -> None:
        """One step of the optimizer down the loss, a scalar; logs the numbers, detached scalars."""
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.get_scale() >= scale:  # it falls where the step was left out
            self.schedule.step()
        self.done += 1
        self.log.add(self.done, numbers)
        if self._on_step is not None and self.rank == 0:
            self._on_step(self.done, self.log.rows[-1] if self.log.rows else {})
        if self.done == self.options.steps or self.done % self.options.save_every == 0:
            self._save()

    def finish(self, save: Callable[[nn.Module], None]) -> None:
        """Writes the model by `save` and removes the checkpoint, once all steps are done."""
        if self.done != self.options.steps:
            raise RuntimeError(f"finish: expected {self.options.steps} steps, {self.done} are done")
        self._tell_unreadable()
        if self.rank == 0:
            save(self.model)
            self.checkpoint.unlink(missing_ok=True)

    def _wrapped(self) -> nn.Module:
        network = self.model
        if self.processes > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            network = nn.parallel.DistributedDataParallel(network, device_ids=devices)
        if self.options.compile:
            network.compile()
        return network

    def _parts(self) -> dict[str, Any]:
        """What a checkpoint holds the state of."""
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "scaler": self.scaler,
        }

    def _save(self) -> None:
        self.log.read()
        self._check_weights()
        self.log.write()
        if self.rank == 0:  # of several processes, which are alike, one writes
            save_checkpoint(self.checkpoint, self.done, self.settings, self._parts())
            self.log.draw()

    def _check_weights(self) -> None:
        try:
            check_finite_state(self.model.state_dict(), self.model, "the network")
        except ValueError:
            raise DivergenceError(
                f"the network's weights are no numbers any more after step {self.done}: try a smaller learning rate"
            ) from None

    def _resume(self) -> None:
        if self.checkpoint.exists():
            folder = None if self._pool is None else self._pool.folder
            self.done = load_checkpoint(self.checkpoint, self.settings, self._parts(), folder)
            self.log.resume(self.done)
        elif self.out.exists():
            raise FileExistsError(f"{self.out}: expected a name that is free, this model is there; {RESTART_HINT}")
        if self.processes > 1:
            done = torch.tensor([self.done, -self.done], device=self.device)
            dist.all_reduce(done, dist.ReduceOp.MAX)
            if done.sum() != 0:
                raise ValueError(f"{self.checkpoint}: expected the same one for all processes; put it on a shared disk")
