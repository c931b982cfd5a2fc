"""The certify stage: examples, shares of them, checks before and after, cards."""
