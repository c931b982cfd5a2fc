"""Test images under corruptions of our own, made by torchvision's operations: keyed, and nothing to download.

None bears the name of a published corruption (`mnist_c`, `cifar_c`): figures on one are not figures on the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from certtrain.data.evaluation import EvaluationSet, one_to_five
from certtrain.data.module import DataModule, Part
from certtrain.data.split import Inputs
from certtrain.errors import UserError, nearest
from certtrain.randomness import uniforms

SEED = 0  # fixed for good: the images are the same whatever the run's seed
COARSE = 4  # points on each side of the grid whose random displacements a warp interpolates
SIDE = 32  # pixels on the shorter side of the images that lengths in pixels are meant for

Change = Callable[[Tensor, float, Tensor], Tensor]


@dataclass(frozen=True)
class Corruption:
    """What happens to an image.

    Attributes:
        change: the image (C, H, W), float64 in [0, 1], at a strength, with uniform numbers in [0, 1).
        strengths: at severity 1 to 5.
        numbers: how many uniform numbers an image takes, by how many values it has.
    """

    change: Change
    strengths: tuple[float, float, float, float, float]
    numbers: Callable[[int], int] = lambda values: 2


class CorruptedInputs:
    """Corrupted images, made when they are asked for; like a tensor (n, C, H, W) wherever a split is used.

    Image by image, in float64 and on the processor, then rounded to 8 bits a value: an image does not depend on those
    that it is asked for with.

    Args:
        x: the clean images.
        positions: (n,) int64 of those to corrupt; they key what is random.
        corruption: one of `CORRUPTIONS`.
        severity: 1 to 5.
        device: where they are wanted.
    """

    dtype = torch.float32

    def __init__(
        self, x: Inputs, positions: Tensor, corruption: str, severity: int, device: torch.device | str = "cpu"
    ) -> None:
        self.x, self.positions, self.corruption, self.severity = x, positions, corruption, severity
        self.device = torch.device(device)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, C, H, W)."""
        return len(self.positions), *self.x.shape[1:]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: Tensor) -> Tensor:
        at = self.positions[index.cpu()]
        if not len(at):
            return torch.empty(0, *self.shape[1:], device=self.device)
        found, purpose = CORRUPTIONS[self.corruption], f"corruption {self.corruption}"
        strength = found.strengths[self.severity - 1]
        numbers = uniforms(SEED, purpose, self.severity, at, found.numbers(math.prod(self.shape[1:]))).double()
        changed = [found.change(image.double(), strength, u) for image, u in zip(self.x[at].cpu(), numbers)]
        bits = torch.stack(changed).clamp(0, 1).mul(255).round()
        return bits.to(torch.float32).div_(255).to(self.device)

    def to(self, device: torch.device | str) -> CorruptedInputs:
        """The same, wanted on another device."""
        return CorruptedInputs(self.x, self.positions, self.corruption, self.severity, device)

    def take(self, positions: Tensor) -> CorruptedInputs:
        """Those at some positions; nothing is made."""
        at = self.positions[positions.cpu()]
        return CorruptedInputs(self.x, at, self.corruption, self.severity, self.device)


class Corrupted(EvaluationSet):
    """The test images of other data under a corruption of certtrain's own, at one of five severities.

    `certtrain certify run=NAME data=corrupted data.corruption=blur` corrupts the run's own test images. The name of
    the data set, `mnist_certtrain_blur_1`, says whose corruption it is.

    Args:
        data_dir: not read here.
        base: the data; `certify` fills in those of the run.
        corruption: one of `CORRUPTIONS`.
        severity: 1 to 5.
        options: those of `DataModule`.

    Raises:
        UserError: an unknown corruption or severity, no data, or data that are not grey or colour images.
    """

    def __init__(
        self,
        data_dir: str | Path = "data",
        *,
        base: DataModule | None = None,
        corruption: str,
        severity: int = 1,
        **options: Any,
    ) -> None:
        if corruption not in CORRUPTIONS:
            raise UserError(
                f"unknown corruption {corruption!r}", where="data.corruption", fix=nearest(str(corruption), CORRUPTIONS)
            )
        if not isinstance(base, DataModule):
            raise UserError(
                "there are no images to corrupt",
                where="data.base",
                fix="certtrain certify run=NAME data=corrupted, or data.base._target_=certtrain.data.MNIST",
            )
        self.input_shape, self.num_classes = tuple(base.input_shape), base.num_classes
        if len(self.input_shape) != 3 or self.input_shape[0] not in (1, 3):
            raise UserError(
                f"{base.name} has inputs of shape {self.input_shape}, which are not grey or colour images",
                where="data.base",
                fix="data with images",
            )
        self.base, self.corruption, self.severity = base, corruption, one_to_five(severity)
        self.name = f"{base.name}_certtrain_{corruption}_{severity}"
        super().__init__(data_dir, **options)

    def prepare_data(self) -> None:
        """Fetch what the data lack."""
        self.base.prepare_data()

    def load_test(self) -> Part:
        """The test images, corrupted when they are asked for, and their classes."""
        self.base.setup()
        self.class_names, test = self.base.class_names, self.base.test
        return CorruptedInputs(test.x, torch.arange(len(test)), self.corruption, self.severity), test.y


def _blur(image: Tensor, sigma: float, u: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional

    side = min(image.shape[-2:])
    sigma = sigma * side / SIDE
    reach = min(math.ceil(3 * sigma), side - 1)
    return functional.gaussian_blur(image, [2 * reach + 1] * 2, [sigma] * 2)


def _noise(image: Tensor, sigma: float, u: Tensor) -> Tensor:
    first, second = u.view(2, *image.shape)
    return image + sigma * (-2 * (1 - first).log()).sqrt() * (2 * math.pi * second).cos()  # Box and Muller 1958


def _fade(image: Tensor, contrast: float, u: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional

    return functional.adjust_contrast(image, contrast)


def _darken(image: Tensor, brightness: float, u: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional

    return functional.adjust_brightness(image, brightness)


def _lighten(image: Tensor, brightness: float, u: Tensor) -> Tensor:
    return 1 - _darken(1 - image, brightness, u)


def _turn(image: Tensor, degrees: float, u: Tensor) -> Tensor:
    from torchvision.transforms.v2 import InterpolationMode, functional

    return functional.rotate(image, _signed(degrees, u), interpolation=InterpolationMode.BILINEAR)


def _shift(image: Tensor, share: float, u: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    angle = 2 * math.pi * float(u[0])
    return _affine(image, translate=[share * width * math.cos(angle), share * height * math.sin(angle)])


def _slant(image: Tensor, degrees: float, u: Tensor) -> Tensor:
    return _affine(image, shear=[_signed(degrees, u), 0.0])


def _shrink(image: Tensor, scale: float, u: Tensor) -> Tensor:
    return _affine(image, scale=scale)


def _warp(image: Tensor, share: float, u: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional

    coarse = 2 * u.view(2, COARSE, COARSE) - 1
    smooth = functional.resize(coarse, list(image.shape[-2:]), antialias=False)
    return functional.elastic(image, 2 * share * smooth.permute(1, 2, 0)[None])  # a side is 2 long there


def _coarsen(image: Tensor, share: float, u: Tensor) -> Tensor:
    from torchvision.transforms.v2 import InterpolationMode, functional

    sides = list(image.shape[-2:])
    small = functional.resize(image, [max(1, round(share * side)) for side in sides], antialias=True)
    return functional.resize(small, sides, interpolation=InterpolationMode.NEAREST_EXACT)


def _erase(image: Tensor, share: float, u: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional

    sides = image.shape[-2:]
    sizes = [max(1, round(share * side)) for side in sides]
    top, left = (int(v * (side - size + 1)) for v, side, size in zip(u.tolist(), sides, sizes))
    return functional.erase(image, top, left, *sizes, torch.full((1, 1, 1), 0.5, dtype=image.dtype))


def _jpeg(image: Tensor, quality: float, u: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional

    file = BytesIO()  # by Pillow: torchvision 0.29 announces that its own encoder goes
    functional.to_pil_image(image.mul(255).round().to(torch.uint8)).save(file, "JPEG", quality=int(quality))
    return functional.pil_to_tensor(Image.open(file)).double() / 255


def _affine(image: Tensor, **changed: Any) -> Tensor:
    from torchvision.transforms.v2 import InterpolationMode, functional

    unchanged = {"angle": 0.0, "translate": [0.0, 0.0], "scale": 1.0, "shear": [0.0, 0.0]}
    return functional.affine(image, **{**unchanged, **changed}, interpolation=InterpolationMode.BILINEAR)


def _signed(value: float, u: Tensor) -> float:
    return value if float(u[0]) < 0.5 else -value


# Names that no published set of corruptions uses.
CORRUPTIONS: dict[str, Corruption] = {
    "blur": Corruption(_blur, (0.5, 0.75, 1.0, 1.5, 2.0)),  # standard deviation in pixels, of 32
    "noise": Corruption(_noise, (0.04, 0.08, 0.12, 0.18, 0.26), lambda values: 2 * values),  # its standard deviation
    "fade": Corruption(_fade, (0.8, 0.6, 0.45, 0.3, 0.2)),  # what is left of the contrast
    "darken": Corruption(_darken, (0.8, 0.65, 0.5, 0.35, 0.2)),  # factor of the values
    "lighten": Corruption(_lighten, (0.9, 0.8, 0.7, 0.6, 0.5)),  # factor of what they lack to 1
    "turn": Corruption(_turn, (5.0, 10.0, 15.0, 20.0, 30.0)),  # degrees, to either side
    "shift": Corruption(_shift, (0.03, 0.06, 0.09, 0.12, 0.16)),  # share of the side, in any direction
    "slant": Corruption(_slant, (5.0, 10.0, 15.0, 20.0, 30.0)),  # degrees, to either side
    "shrink": Corruption(_shrink, (0.9, 0.8, 0.7, 0.6, 0.5)),  # what is left of the side
    "warp": Corruption(_warp, (0.01, 0.02, 0.03, 0.045, 0.06), lambda values: 2 * COARSE**2),  # share of the side
    "coarsen": Corruption(_coarsen, (0.8, 0.65, 0.5, 0.4, 0.3)),  # what is left of the resolution
    "erase": Corruption(_erase, (0.15, 0.2, 0.25, 0.3, 0.4)),  # share of the side that a grey square hides
    "jpeg": Corruption(_jpeg, (60, 40, 25, 15, 8)),  # quality
}
