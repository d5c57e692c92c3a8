"""Names of test cases that are the same in every process, as tests that run in several need them."""

import re


def case_name(value):
    """Return a value as text, without the addresses of functions."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(value))
