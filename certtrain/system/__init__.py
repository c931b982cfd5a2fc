"""What every room may use of the machine and of Python: files, signals, processes, dotted names."""
