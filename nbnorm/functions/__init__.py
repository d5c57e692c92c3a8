"""The functions of the mathematics, each beside its kernel."""
