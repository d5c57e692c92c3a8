"""The compiled training step and inference of a network."""
