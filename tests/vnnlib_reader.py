"""A reader of VNN-LIB 1.0 of the tests' own: S-expressions, evaluated with exact fractions."""

from fractions import Fraction


def read_vnnlib(text):
    """The box, `[(lower, upper)]` in the order of X, and what decides whether outputs satisfy the property."""
    lines = "\n".join(line.split(";")[0] for line in text.splitlines())
    tokens = iter(lines.replace("(", " ( ").replace(")", " ) ").split())
    declared, bounds, outputs = [], {}, []
    for expression in _expressions(tokens):
        if expression[0] == "declare-const":
            assert expression[2] == "Real"
            declared.append(expression[1])
            continue
        assert expression[0] == "assert"
        formula = expression[1]
        if formula[0] in ("<=", ">=") and formula[1].startswith("X_"):
            side = bounds.setdefault(formula[1], {})
            assert formula[0] not in side
            side[formula[0]] = Fraction(formula[2])
        else:
            outputs.append(formula)
    inputs = [name for name in declared if name.startswith("X_")]
    logits = [name for name in declared if name.startswith("Y_")]
    assert inputs == [f"X_{i}" for i in range(len(inputs))]
    assert logits == [f"Y_{k}" for k in range(len(logits))]
    assert set(bounds) == set(inputs)
    box = [(bounds[name][">="], bounds[name]["<="]) for name in inputs]
    return box, lambda y: all(_holds(formula, dict(zip(logits, y, strict=True))) for formula in outputs)


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
