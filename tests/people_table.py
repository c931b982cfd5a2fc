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


SCALES = "{name: measured, units: {age: 3}, range: {income: 0.02}, immutable: [colour], integers: [age]}"


def training(folder: Path) -> list[str]:
    """Overrides that train on the table in `folder`, into the run `people` there, over boxes of `SCALES`."""
    people(folder / "people.csv")
    made = ["train", "data=csv", "data.file=people.csv", "data.label=kind", "data.one_hot=[colour]", "model=mlp"]
    made += [f"data_dir={folder}", f"runs_dir={folder / 'runs'}", "name=people", "model.hidden=[8]", "epochs=6"]
    made += ["schedule.warmup=1", "schedule.ramp=2", "optimizer.lr=0.02", "trainer=cpu", "eps=1"]
    return [*made, f"scales={SCALES}", "certifier=crown", "certify_test=true"]
