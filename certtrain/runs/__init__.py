"""The run directory: its files, its lock, what it rests on."""
