"""One training: the LightningModule, its fit, callbacks, loggers, checkpoints."""
