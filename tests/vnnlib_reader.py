"""A reader of VNN-LIB 1.0 of the tests' own: S-expressions, evaluated with exact fractions."""

from fractions import Fraction


def read_vnnlib(text):
    """The boxes, each `[(lower, upper)]` in the order of X, and what decides whether outputs satisfy the property."""
    lines = "\n".join(line.split(";")[0] for line in text.splitlines())
    tokens = iter(lines.replace("(", " ( ").replace(")", " ) ").split())
    declared, sides, disjuncts, outputs = [], [], [[]], []
    for expression in _expressions(tokens):
        if expression[0] == "declare-const":
            assert expression[2] == "Real"
            declared.append(expression[1])
            continue
        assert expression[0] == "assert"
        formula = expression[1]
        if _of_inputs(formula):
            sides.append(formula)
        elif formula[0] == "or" and all(part[0] == "and" and all(map(_of_inputs, part[1:])) for part in formula[1:]):
            assert disjuncts == [[]]
            disjuncts = [part[1:] for part in formula[1:]]
        else:
            outputs.append(formula)
    inputs = [name for name in declared if name.startswith("X_")]
    logits = [name for name in declared if name.startswith("Y_")]
    assert inputs == [f"X_{i}" for i in range(len(inputs))]
    assert logits == [f"Y_{k}" for k in range(len(logits))]
    boxes = [_box([*sides, *more], inputs) for more in disjuncts]
    return boxes, lambda y: all(_holds(formula, dict(zip(logits, y, strict=True))) for formula in outputs)


def _of_inputs(formula):
    return formula[0] in ("<=", ">=") and formula[1].startswith("X_")


def _box(sides, inputs):
    bounds = {}
    for word, name, number in sides:
        assert word not in bounds.setdefault(name, {})
        bounds[name][word] = Fraction(number)
    assert set(bounds) == set(inputs)
    return [(bounds[name][">="], bounds[name]["<="]) for name in inputs]


def _expressions(tokens):
    for token in tokens:
        if token == "(":
            yield list(_expressions(tokens))
        elif token == ")":
            return
        else:
            yield token


def _holds(formula, values):
    word, *rest = formula
    if word in ("and", "or"):
        return (all if word == "and" else any)(_holds(part, values) for part in rest)
    left, right = (values[side] if side in values else Fraction(side) for side in rest)
    return {"<=": left <= right, ">=": left >= right}[word]
