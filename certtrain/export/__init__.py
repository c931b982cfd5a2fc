"""What other programs read: the network as ONNX, the claims about it as VNN-LIB properties."""

from certtrain.export.claims import Claims, read_claims
from certtrain.export.folder import Export, write_export
from certtrain.export.onnx import onnx_bytes
from certtrain.export.vnnlib import box_text, decimal_box, decimal_boxes, property_text

__all__ = [
    "Claims",
    "Export",
    "box_text",
    "decimal_box",
    "decimal_boxes",
    "onnx_bytes",
    "property_text",
    "read_claims",
    "write_export",
]
