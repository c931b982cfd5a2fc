"""One self-contained HTML page about a run: what was certified, what that means, and the evidence beside it."""
