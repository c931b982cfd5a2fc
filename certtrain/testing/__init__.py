"""Conformance suites: what every method, certifier, noise and threat model must do, for ours and for custom ones.

Each is a class of pytest tests to inherit from; a subclass says how its part is made:

    from certtrain.testing.methods import MethodSuite

    class TestMine(MethodSuite):
        def make(self):
            return MyMethod(...)
"""
