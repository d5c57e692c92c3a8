"""Which modules of the package pytest looks into for examples."""

import importlib.util

# It defines torch's modules, and torch is too large to be installed for the tests alone.
collect_ignore = [] if importlib.util.find_spec("torch") else ["nbnorm/interop/torch_modules.py"]
