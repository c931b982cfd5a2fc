"""wandb runs offline without a key, keeps its id over a resume."""

import time

import pytest
from claims import LINF

from certtrain.training.loggers.wandb_logger import WandbMetrics, has_key, run_id


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def test_key_from_environment_or_netrc(no_key, monkeypatch):
    assert not has_key()
    no_key.write_text("machine api.wandb.ai login user password " + "a" * 40)
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert has_key()


def test_id_is_stable_and_tells_namesakes_apart(tmp_path):
    first = run_id("digits eps=0.1", tmp_path / "a")
    assert first.startswith("digits-eps-0-1-")
    assert first == run_id("digits eps=0.1", tmp_path / "a")
    assert first != run_id("digits eps=0.1", tmp_path / "b")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "environment.json").write_text('{"started": "2026-01-01T00:00:00+00:00", "resumed": []}')
    made_anew = run_id("digits eps=0.1", tmp_path / "a")
    assert made_anew != first
    (tmp_path / "a" / "environment.json").write_text(
        '{"started": "2026-01-01T00:00:00+00:00", "resumed": [{"started": "2026-01-02"}]}'
    )
    assert made_anew == run_id("digits eps=0.1", tmp_path / "a")


def test_offline_run_is_written(no_key, tmp_path):
    from certtrain.reporting.plots import certified_accuracy_plot

    entry = {
        "claim": LINF.to_dict(),
        "clean": 0.9,
        "certified": {"2/255": 0.5},
        "acr_grid": 0.004,
        "abstained": 0,
        "invalid": 0,
    }
    entry |= {"n": 10, "indices_sha256": "0", "certifier": "ibp", "settings": {}, "seconds": 1.0}
    figure = certified_accuracy_plot({"test-ibp": entry}, tmp_path / "curve.png")
    logger = WandbMetrics(tmp_path / "first", project="certtrain-tests")
    logger.log_hyperparams({"eps": 0.1, "method": {"name": "ibp"}})
    try:
        assert "wandb login" in logger.note
        logger.log_metrics({"loss": 0.5}, step=1)
        logger.log_test({"test-ibp": entry}, figure)
        assert logger.run.offline
        assert logger.run.id == run_id("first", tmp_path / "first")
        assert dict(logger.run.config)["method"] == {"name": "ibp"}
        assert logger.run.summary["test/test-ibp/certified@2_255"] == 0.5
    finally:
        logger.close()
        logger.close()
    folder = next((tmp_path / "first" / "wandb").glob("offline-run-*"))
    # wandb's own process writes the file out a moment after finish() has returned
    until = time.monotonic() + 20
    while b"test/test-ibp/clean" not in (written := next(folder.glob("*.wandb")).read_bytes()):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert b"certified_accuracy" in written
    assert list((folder / "files" / "media" / "images").rglob("*.png"))
    assert list((folder / "files" / "media" / "table").rglob("*.table.json"))
