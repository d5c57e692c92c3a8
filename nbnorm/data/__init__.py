"""Data sets and files of data."""
