"""`certtrain predict run=runs/NAME input=image.png`: the prediction and the certified radius of one input."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certtrain.cli import certify
from certtrain.cli.compose import given_values
from certtrain.config.checks import check_scales, check_units
from certtrain.config.overrides import quoted
from certtrain.config.received import trusted
from certtrain.errors import UserError
from certtrain.reporting.rows import allowed_changes, read_row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from certtrain.certificates import Certificates
    from certtrain.models.contract import InputContract


def prepare(arguments: list[str]) -> list[str]:
    """As for `certify`, what the run says comes first; one bound certifier, the tightest, unless another is named."""
    inherited = [key for key in certify.INHERITED if key not in ("n", "data_dir")]  # one image can afford more draws
    prepared = certify.prepare(arguments, "predict", inherited)
    if "input" in (given := given_values(arguments)):
        prepared = [a for a in prepared if not a.startswith("input=")] + [quoted("input", given["input"])]
    return ["certifier=crown" if a == "certifier=bounds" and a not in arguments else a for a in prepared]


def run(config: Any) -> int:
    """Print class, radius and what the radius means."""
    from certtrain.config.instantiate import plain

    resolved = plain(config)
    from certtrain.config.build import build_certifiers, build_scales
    from certtrain.config.loading import load_run
    from certtrain.data import Batch
    from certtrain.models.invariance import check_function
    from certtrain.reporting import terminal

    check_scales(resolved)
    loaded = load_run(resolved["run"], resolved["checkpoint"], resolved["runs_dir"], trusted(resolved["trust"]))
    check_units(resolved, math.prod(loaded.contract.shape))
    x = read_input(Path(resolved["input"]), loaded.contract)
    import torch

    check_function(loaded.network, x)
    # A bound certificate needs a label: the network's own prediction, so that the radius is that of the prediction.
    with torch.no_grad():
        label = loaded.network(x).argmax(1)
    console = terminal.console()
    if loaded.note:
        terminal.print_line(console, f"not checked: {loaded.note}")
    scales = build_scales(resolved, loaded.contract, f"the run {loaded.run.name}")
    for name, certifier in build_certifiers(resolved, scales).items():
        certifier.bind(loaded.network, split="predict", examples=1, device=x.device)
        found = certifier.certify(loaded.network, Batch(x, label, torch.tensor([content_index(x)])))
        console.print(describe(name, certifier, found, loaded.contract.class_names), highlight=False, soft_wrap=True)
        if scales is not None and found.radius[0] > 0:
            radius = next(radius for radius in certifier.radii if float(radius) == found.radius[0])
            for line in allowed_changes(x, radius, scales, loaded.contract.features or ()):
                console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def content_index(x: Tensor) -> int:
    """The index that keys an input's noise, in [0, 2^63): a hash of its numbers.

    A position would give every input the same noise, and gradients of the votes under noise that is known lead within a
    few steps to inputs for which it is not typical, so that their certificate is wrong far more often than alpha says.
    Noise that changes with the smallest change of the input gives them nothing to descend.
    """
    digest = hashlib.blake2b(x.numpy().tobytes(), digest_size=8, person=b"certtrain").digest()
    return int.from_bytes(digest, "little") >> 1


def describe(name: str, certifier: Any, found: Certificates, class_names: Sequence[str] | None = None) -> str:
    """The certificate in words."""
    from certtrain.radii import radius_text
    from certtrain.reporting.entries import floored
    from certtrain.system.escape import one_line

    if int(found.predict[0]) < 0:
        return f"{name}: abstains; more draws (n=...) may decide"
    claim, radius = certifier.claim(), float(found.radius[0])
    label = f"class {int(found.predict[0])}"
    label += f" ({one_line(class_names[int(found.predict[0])])})" if class_names else ""
    if radius == 0 and not claim.probabilistic:
        return f"{name}: {label}, not certified at any of the radii"
    least = "at least " if claim.radii == "targets" else ""
    if claim.unit:
        exact = next((radius_text(r) for r in certifier.radii if float(r) == radius), floored(radius, 4))
        words = f"{name}: {label}, certified for {least}{exact} times the changes of {claim.unit.split(' of ', 1)[-1]}"
        words += ", all at once"
    else:
        words = f"{name}: {label}, certified {claim.symbol} radius {least}{floored(radius, 4)} (inputs in [0, 1])"
    if claim.probabilistic:
        draws = f", n {int(found.columns['n'][0]):,}" if "n" in found.columns else ""
        return f"{words}; {claim.brief}{draws}, confidence {1 - claim.alpha:g}"
    return f"{words}; deterministic" + (", the largest of the grid that is proved" if claim.radii == "grid" else "")


def read_input(path: Path, contract: InputContract) -> Tensor:
    """(1, ...) float32 in [0, 1] from an image file, a .npy array, or a CSV file of one row in its own units.

    Raises:
        UserError: no such file, not an image, or of another size than the network's input.
    """
    import torch

    where, kind = f"input={path}", path.suffix.lower()
    if not path.is_file():
        raise UserError(
            f"there is no file {path}", where=where, fix="input=PATH of an image, a .npy array or a CSV row"
        )
    if kind == ".csv":
        return read_row(path, contract.features)
    array = _read_array(path, tuple(contract.shape), where) if kind == ".npy" else _read_pixels(path, contract, where)
    x = torch.from_numpy(array)[None]
    low, high = (float(value) for value in x.aminmax())
    if not (contract.lower <= low and high <= contract.upper):  # NaN is neither
        raise UserError(
            f"{path} holds values outside [{contract.lower:g}, {contract.upper:g}]: {low:.6g} to {high:.6g}",
            where=where,
            fix="scale it to that range; a value that is no number has no certificate",
        )
    return x


def _read_pixels(path: Path, contract: InputContract, where: str) -> NDArray[np.float32]:
    """The pixels of an image file over 255, as training has them."""
    import numpy as np

    from certtrain.data.read_image import read_image

    if len(contract.shape) != 3 or contract.shape[0] not in (1, 3):
        fix = "a .npy array, or a CSV file of one row" if contract.features else "a .npy array"
        raise UserError(f"the network takes inputs of shape {contract.shape}, not images", where=where, fix=fix)
    channels, height, width = contract.shape
    pixels = read_image(path, where=where, mode="L" if channels == 1 else "RGB", size=(width, height))
    pixels = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels, dtype=np.float32) / 255


def _read_array(path: Path, shape: tuple[int, ...], where: str) -> NDArray[np.float32]:
    """A .npy array of floating point numbers; its header is looked at before its numbers are read."""
    import numpy as np

    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            array.close()
            raise ValueError("it is an archive of several")
    except Exception as error:  # of a file that is something else numpy raises whatever that leads it to
        raise UserError(f"{path} is not a .npy array: {error}", where=where, fix="numpy.save writes one") from error
    if array.dtype.kind != "f":
        raise UserError(
            f"{path} is not a .npy array of floating point numbers, but of {array.dtype}",
            where=where,
            fix="numpy.save(FILE, (pixels / 255).astype('float32')) for pixels from 0 to 255",
        )
    if array.shape != shape:
        raise UserError(
            f"{path} has shape {array.shape}, the network takes {shape}",
            where=where,
            fix="one input without a batch dimension; to resize an image is to certify another one",
        )
    with np.errstate(over="ignore"):  # infinite, and refused as such
        return np.array(array, dtype=np.float32, order="C")
