"""certtrain's own loggers: Lightning's, which also resume a run."""
