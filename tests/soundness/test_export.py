"""A verifier of the tests' own, in exact fractions, reads exported files and proves what our interval bounds prove."""

import json
from fractions import Fraction

import onnx
import pytest
from onnx import numpy_helper
from vnnlib_reader import read_vnnlib

from certtrain.cli import main as cli


@pytest.fixture(scope="module")
def exported(trained_runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("soundness") / "verifiers"
    arguments = ["export", f"run={trained_runs / 'bounds'}", "radii=[0.02,0.05]", "indices=first_20"]
    assert cli.main([*arguments, f"output={folder}"]) == 0
    return folder


class Intervals:
    """Interval bounds of an ONNX graph over a box, exactly: the last Gemm merged with each difference of logits."""

    def __init__(self, path):
        self.graph = onnx.load(path).graph
        self.weights = {w.name: numpy_helper.to_array(w) for w in self.graph.initializer}

    def margins(self, box, label):
        """Lower bounds of y_label - y_k, k != label."""
        *nodes, last = self.graph.node
        for node in nodes:
            box = getattr(self, node.op_type.lower())(node, box)
        assert last.op_type == "Gemm"
        weight, bias = self._affine(last)
        return [
            _affine_lower([a - b for a, b in zip(weight[label], weight[k])], bias[label] - bias[k], box)
            for k in range(len(weight))
            if k != label
        ]

    def sub(self, node, box):
        shift = self._constant(node, box)
        return [(low - s, high - s) for (low, high), s in zip(box, shift)]

    def div(self, node, box):
        scale = self._constant(node, box)
        assert min(scale) > 0
        return [(low / s, high / s) for (low, high), s in zip(box, scale)]

    def relu(self, node, box):
        return [(max(low, Fraction(0)), max(high, Fraction(0))) for low, high in box]

    def flatten(self, node, box):
        return box

    def gemm(self, node, box):
        weight, bias = self._affine(node)
        lower = [_affine_lower(row, b, box) for row, b in zip(weight, bias)]
        upper = [-_affine_lower([-w for w in row], -b, box) for row, b in zip(weight, bias)]
        return list(zip(lower, upper))

    def _constant(self, node, box):
        values = [Fraction(float(v)) for v in self.weights[node.input[1]].flatten()]
        assert len(values) == 1  # one grey channel
        return values * len(box)

    def _affine(self, node):
        options = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert (options.get("alpha", 1.0), options.get("beta", 1.0), options.get("transB")) == (1.0, 1.0, 1)
        weight, bias = (self.weights[name] for name in node.input[1:])
        return [[Fraction(float(w)) for w in row] for row in weight], [Fraction(float(b)) for b in bias]


def _affine_lower(row, bias, box):
    return sum((w * (low if w > 0 else high) for w, (low, high) in zip(row, box)), bias)


def test_what_we_verify_by_intervals_is_proved_from_the_files_alone(exported):
    found = json.loads((exported / "properties.json").read_text())
    verifier, proved = Intervals(exported / found["network"]["file"]), {"0.02": 0, "0.05": 0}
    for entry in found["properties"]:
        (box,), satisfied = read_vnnlib((exported / entry["file"]).read_text())
        margins = verifier.margins(box, entry["label"])
        for claim in entry["claims"]:
            if claim["log"] == "ibp" and claim["status"] == "verified":
                assert min(margins) > 0
                proved[entry["radius"]] += 1
            if claim["status"] in ("falsified", "misclassified"):
                assert min(margins) <= 0
        if min(margins) > 0:  # unsat: no vector of logits within the bounds satisfies the property
            logits = [Fraction(0)] * (len(margins) + 1)
            logits[entry["label"]] = min(margins)
            assert not satisfied(logits)
    assert min(proved.values()) > 3
