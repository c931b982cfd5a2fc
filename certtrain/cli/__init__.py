"""One thin file a command, and what knows Hydra."""
