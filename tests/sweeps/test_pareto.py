"""The Pareto front against its definition, by brute force."""

from hypothesis import given
from hypothesis import strategies as st

from certtrain.sweeps.pareto import pareto_front

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=25)


def dominates(a, b) -> bool:
    return a[0] >= b[0] and a[1] >= b[1] and (a[0] > b[0] or a[1] > b[1])


@given(POINTS)
def test_the_front_is_what_nothing_dominates(points):
    expected = {i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)}
    front = pareto_front(points)
    assert set(front) == expected
    assert len(front) == len(expected)
    assert [points[i][0] for i in front] == sorted((points[i][0] for i in front), reverse=True)
    assert [points[i][1] for i in front] == sorted(points[i][1] for i in front)
    # every point is on the front or dominated by one that is
    assert all(i in front or any(dominates(points[j], points[i]) for j in front) for i in range(len(points)))


def test_examples():
    assert pareto_front([]) == []
    assert pareto_front([(1, 1), (1, 1)]) == [0, 1]
    assert pareto_front([(0.9, 0.1), (0.5, 0.5), (0.4, 0.4), (0.1, 0.9)]) == [0, 1, 3]


def test_the_work_grows_with_the_front_and_not_with_all_pairs():
    class Counted(float):
        compared = 0

        def __ge__(self, other):
            Counted.compared += 1
            return float(self) >= float(other)

    points = [(Counted(i % 7), Counted(-i)) for i in range(1_000)]
    assert pareto_front(points) == [6, 5, 4, 3, 2, 1, 0]
    assert Counted.compared <= 2 * 8 * 1_000
