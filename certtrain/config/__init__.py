"""A configuration: what it may say, what it means, and the parts that it names."""
