"""Sessions of a run: build, train and certify in one process or several."""
