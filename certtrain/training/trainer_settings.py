"""What the trainer group configures, checked against the machine. Knows torch only: it is asked before a run starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from certtrain.errors import UserError, nearest

PRECISIONS = ("32-true", "tf32", "bf16-mixed")
TENSOR_FLOATS = (8, 0)  # compute capability of the first NVIDIA GPUs with TF32 and bfloat16
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")


@dataclass(frozen=True)
class TrainerSettings:
    """What the trainer group configures.

    `accumulate_grad_batches` is not Lightning's: it is the number of parts that each batch is computed in, see
    `certtrain.methods.in_parts`. An optimiser step takes `data.batch_size` examples whatever the memory at hand.
    """

    accelerator: str = "auto"
    devices: int | str = 1
    precision: str = "32-true"
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    check_every_n_steps: int = 50
    channels_last: bool = False
    compile: bool | str = False

    def __post_init__(self) -> None:
        for key in ("accumulate_grad_batches", "check_every_n_steps", "devices"):
            value = getattr(self, key)
            if key == "devices" and value == "auto":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(
                    f"trainer.{key} = {value!r} is not a whole number >= 1",
                    where=f"configuration key trainer.{key}",
                    fix=f"trainer.{key}=1",
                )
        if self.precision not in PRECISIONS:
            raise UserError(
                f"trainer.precision = {self.precision!r} is unknown",
                where="configuration key trainer.precision",
                fix=nearest(str(self.precision), PRECISIONS),
            )
        self._check_accelerator()
        if self.precision == "tf32" and self.device_type != "cuda":
            raise UserError(
                "trainer.precision = 'tf32' is for NVIDIA GPUs, and none is used here",
                where="configuration key trainer.precision",
                fix="trainer.precision=32-true",
            )
        self._check_hardware_precision()
        self._check_compile()

    def _check_accelerator(self) -> None:
        """What is asked for by name is there: on a GPU that is not, nobody wants to wait for a processor."""
        if self.accelerator not in ACCELERATORS:
            raise UserError(
                f"trainer.accelerator = {self.accelerator!r} is not supported",
                where="configuration key trainer.accelerator",
                fix=f"{', '.join(ACCELERATORS)}; trainer.accelerator=cpu runs everywhere",
            )
        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        there = {"gpu": cuda or mps, "cuda": cuda, "mps": mps}.get(self.accelerator, True)
        if not there:
            raise UserError(
                f"trainer.accelerator = {self.accelerator} asks for a GPU, and torch sees none",
                where="configuration key trainer.accelerator",
                fix="trainer.accelerator=cpu, or a machine and a build of torch with one",
            )

    def _check_hardware_precision(self) -> None:
        """Older GPUs run both modes without a word: tf32 as float32, bfloat16 emulated and slower than float32."""
        if self.device_type != "cuda" or self.precision == "32-true":
            return
        capability = torch.cuda.get_device_capability()
        if capability < TENSOR_FLOATS:
            raise UserError(
                f"trainer.precision = {self.precision!r} needs compute capability {TENSOR_FLOATS[0]}.0 or higher, this "
                f"GPU has {capability[0]}.{capability[1]}",
                where="configuration key trainer.precision",
                fix="trainer.precision=32-true",
            )

    def _check_compile(self) -> None:
        if self.compile is False:
            return
        from certtrain.methods.compiled import COMPILE_MODES  # seconds

        if self.compile not in (True, *COMPILE_MODES):
            raise UserError(
                f"trainer.compile = {self.compile!r} is unknown",
                where="configuration key trainer.compile",
                fix=f"false, true (as default), {', '.join(COMPILE_MODES)}",
            )
        if self.compile and self.accumulate_grad_batches > 1:
            raise UserError(
                f"trainer.compile={str(self.compile).lower()} with "
                f"trainer.accumulate_grad_batches={self.accumulate_grad_batches} is not supported",
                where="configuration key trainer.compile",
                fix="trainer.compile=false, or whole batches (trainer.accumulate_grad_batches=1)",
            )
        if self.compile and self.devices != 1:
            raise UserError(
                f"trainer.compile={str(self.compile).lower()} with trainer.devices={self.devices} is not supported",
                where="configuration key trainer.compile",
                fix="trainer.devices=1, or trainer.compile=false",
            )

    @property
    def compile_mode(self) -> str | None:
        """The mode of torch.compile for the objective; None to leave it as it is."""
        return {False: None, True: "default"}.get(self.compile, self.compile)  # type: ignore[call-overload]

    @property
    def products(self) -> Literal["ieee", "tf32"]:
        """How training multiplies float32 numbers on GPUs, see `evaluation.float32_products`."""
        return "tf32" if self.precision == "tf32" else "ieee"

    @property
    def device_type(self) -> str:
        """`cuda` or `cpu`: of several devices. One device may be of another type."""
        return "cuda" if self.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"

    def device_count(self) -> int:
        """How many devices train together; `auto` is all GPUs there are, or with accelerator `cpu` one process.

        Raises:
            UserError: more GPUs than there are; several devices, without a word that processors are meant.
        """
        found = torch.cuda.device_count() if self.device_type == "cuda" else None
        if found is None and self.devices != 1 and self.accelerator != "cpu":
            raise UserError(
                f"trainer.devices = {self.devices} asks for NVIDIA GPUs, and torch sees none",
                where="configuration keys trainer.devices and trainer.accelerator",
                fix="trainer.accelerator=cpu for so many processes on the processor, or trainer.devices=1",
            )
        if self.devices == "auto":
            return max(1, found or 1)
        assert isinstance(self.devices, int)
        if found is not None and self.devices > max(1, found):
            raise UserError(
                f"trainer.devices = {self.devices}, and torch sees {found} GPU(s)",
                where="configuration key trainer.devices",
                fix=f"trainer.devices={max(1, found)}, or trainer.accelerator=cpu",
            )
        return self.devices
