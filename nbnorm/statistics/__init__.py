"""Statistics of data: moments, standardization, the encoding of columns."""
