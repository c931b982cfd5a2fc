"""A folder that a verification competition's tools take: networks, properties, `instances.csv`, and what is claimed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from certtrain.certificates import STATUSES
from certtrain.errors import UserError
from certtrain.export.claims import Claims
from certtrain.export.onnx import INPUT, OPSET, OUTPUT, onnx_bytes
from certtrain.export.vnnlib import PLACES, decimal_boxes, property_text
from certtrain.radii import radius_key, radius_text
from certtrain.system.escape import one_line
from certtrain.system.files import unwritable, write_bytes_atomic, write_json_atomic, write_text_atomic
from certtrain.threat.scales import Scales

SCALED = (
    "The ball is a box of another size for each feature: radius times its size in properties.json, scales.features.",
    "A feature of size 0 is the same number at both ends, with all its digits and nothing added.",
)
CATEGORIES = (
    "A column in scales.categories takes any of its values: the input is in one of several boxes, one for each",
    "combination of categories, written as an (or ...) of an (and ...) that bounds every input.",
)


@dataclass(frozen=True)
class Export:
    """What is exported.

    Attributes:
        network: maps (B, *shape) inputs in [0, 1] to (B, K) logits.
        name: of the network's file.
        x: (n, *shape) examples; none for the network alone.
        y: (n,) classes.
        index: (n,) their positions in the split.
        radii: exact, l-inf.
        num_classes: K.
        shape: of one example.
        claims: what our logs say.
        timeout: seconds that an instance is given.
        about: what stands in properties.json besides: run, checkpoint, data set, split.
        scales: sizes of the features, of which the radii are multiples; None: 1 for all.
    """

    network: nn.Module
    name: str
    x: Tensor
    y: Tensor
    index: Tensor
    radii: tuple[Fraction, ...]
    num_classes: int
    shape: tuple[int, ...]
    claims: Claims = field(default_factory=lambda: Claims(()))
    timeout: float = 300
    about: dict[str, Any] = field(default_factory=dict)
    scales: Scales | None = None


def write_export(folder: str | Path, export: Export) -> dict[str, Any]:
    """Write `onnx/NAME.onnx`, `vnnlib/*.vnnlib`, `instances.csv`, `properties.json`, `README.txt`; all or nothing.

    Returns:
        What `properties.json` holds.

    Raises:
        UserError: the folder exists, or cannot be written; the network cannot be exported.
    """
    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder} exists", where="configuration key output", fix="output=DIR of a new one")
    network = onnx_bytes(export.network, export.shape)
    try:
        part = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        part.mkdir(parents=True)
    except OSError as error:
        raise unwritable(folder, error, where="configuration key output", fix="output=DIR") from error
    try:
        found = _write(part, export, network)
        part.rename(folder)
    except OSError as error:
        raise unwritable(folder, error, where="configuration key output", fix="output=DIR") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return found


def _write(part: Path, export: Export, network: bytes) -> dict[str, Any]:
    onnx = f"onnx/{export.name}.onnx"
    write_bytes_atomic(part / onnx, network)
    found: dict[str, Any] = {
        **export.about,
        "network": {
            "file": onnx,
            "sha256": hashlib.sha256(network).hexdigest(),
            "opset": OPSET,
            "input": {"name": INPUT, "shape": [1, *export.shape], "range": [0, 1], "normalised": "by the network"},
            "output": {"name": OUTPUT, "shape": [1, export.num_classes], "what": "logits"},
        },
        **({} if export.scales is None else {"scales": export.scales.to_dict()}),
        "properties": [],
    }
    if len(export.index):
        lines = []
        for radius in export.radii:
            for x, y, index in zip(export.x, export.y.tolist(), export.index.tolist()):
                entry = _property(part, export, x, int(y), int(index), radius)
                found["properties"].append(entry)
                lines.append(f"{onnx},{entry['file']},{export.timeout:g}\n")
        write_text_atomic(part / "instances.csv", "".join(lines))
    write_json_atomic(part / "properties.json", found)
    write_text_atomic(part / "README.txt", readme(found))
    return found


def _property(part: Path, export: Export, x: Tensor, y: int, index: int, radius: Fraction) -> dict[str, Any]:
    file = f"vnnlib/example{index}_linf_{radius_key(radius)}.vnnlib"
    claims = export.claims.at(index, radius)
    said = "; ".join(f"{claim['status']} ({claim['log']})" for claim in claims) or "nothing is claimed"
    about = f"example {index}" + (f" of {export.about['dataset']} {export.about['split']}" if export.about else "")
    comment = [
        f"{about}, label {y}, l-inf radius {radius_text(radius)}"
        + ("" if export.scales is None else f" of the features' scales {export.scales.label}"),
        f"unsat: every input of the ball gets the label; certtrain: {said}",
    ]
    boxes = decimal_boxes(x, radius, scales=export.scales)
    write_text_atomic(part / file, property_text(boxes, y, export.num_classes, comment))
    several = {"boxes": len(boxes)} if len(boxes) > 1 else {}
    return {"file": file, "index": index, "label": y, "radius": radius_text(radius), **several, "claims": claims}


def verdict(entry: dict[str, Any]) -> str:
    """Of all logs' statuses about one property the first in the statuses' precedence."""
    said = {claim["status"] for claim in entry["claims"]}
    return next((status for status in STATUSES if status in said), "nothing claimed")


def readme(found: dict[str, Any]) -> str:
    """What the folder holds and what an answer of another verifier would mean, in words."""
    network = found["network"]
    lines = [
        "Exported by certtrain.",
        "",
        f"network             {network['file']} (sha256 {network['sha256']})",
        f"                    {INPUT} {network['input']['shape']} float32 in [0, 1] to",
        f"                    {OUTPUT} {network['output']['shape']} logits;",
        "                    normalisation is its first layer; weights are those of the checkpoint, bit for bit",
    ]
    lines += [
        f"{key.replace('_', ' '):<19} {one_line(value)}" for key, value in found.items() if isinstance(value, str)
    ]
    if found["properties"]:
        counts = Counter(verdict(entry) for entry in found["properties"])
        lines += [
            "",
            "instances.csv names a network, a property (VNN-LIB 1.0) and a timeout in seconds per line;",
            "properties.json says which example, label and radius each is, and what our logs say of it.",
            "",
            "A property is satisfiable when an input of the box gets another class at least as large a logit.",
            f"The box holds the exact l-inf ball within [0, 1]: rounded outward to {PLACES} decimals, after 2^-25 was",
            "added on each side, so that it still holds the ball when its numbers are read as float32.",
            *(SCALED if "scales" in found else ()),
            *(CATEGORIES if "categories" in found.get("scales", ()) else ()),
            "  unsat   proves the claim about the ball; sat where we say verified: one of the two is wrong",
            "  sat     a counterexample, unless it lies in the added 2^-25; unsat where we say falsified: likewise",
            "",
            "what our logs say of the properties",
            *(f"  {counts[status]:>6}  {status}" for status in sorted(counts)),
        ]
    return "\n".join([*lines, ""])
