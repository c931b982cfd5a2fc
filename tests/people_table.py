"""A small table for tests: ages in whole years, incomes, a column of words."""

import random
from pathlib import Path


def people(path: Path, n: int = 120) -> None:
    """Write a CSV file whose classes follow from income and age."""
    draw = random.Random(0)
    lines = ["age,colour,income,kind", "20,red,10000,new", "70,blue,90000,old"]
    for _ in range(n):
        age, income = draw.randint(20, 70), draw.randint(10, 90) * 1000
        kind = "old" if income / 80000 + age / 60 + draw.gauss(0, 0.1) > 1.4 else "new"
        lines.append(f"{age},{draw.choice(['red', 'blue'])},{income},{kind}")
    path.write_text("\n".join(lines) + "\n")
