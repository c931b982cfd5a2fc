"""A test result as scalars: what every logger shows."""

from claims import LINF

from certtrain.training.loggers import scalars


def test_names_and_numbers():
    entry = {"claim": LINF.to_dict(), "clean": 0.75, "certified": {"0": 0.75, "2/255": 0.5}, "acr_grid": 0.25}
    entry |= {"n": 10, "abstained": 0, "invalid": 1, "certifier": "ibp", "settings": {}, "indices_sha256": "0"}
    assert scalars.test_scalars({"ibp": entry, "b": {"certified": {}}}) == {
        "test/ibp/certified@0": 0.75,
        "test/ibp/certified@2_255": 0.5,
        "test/ibp/clean": 0.75,
        "test/ibp/acr_grid": 0.25,
        "test/ibp/abstained": 0,
        "test/ibp/invalid": 1,
    }
