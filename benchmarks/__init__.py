"""Speed and cost, each against a peer or the limit, in one run: `python -m benchmarks.NAME --help`."""
