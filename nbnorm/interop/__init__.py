"""Models leave and come back: ONNX, torch, safetensors, skops.

Each function imports the package that it needs when it is called: ``pip install "nbnorm[onnx]"``,
``"nbnorm[torch]"`` or ``"nbnorm[safetensors]"``.
"""

from nbnorm.interop.onnx_export import to_onnx
from nbnorm.interop.onnx_import import from_onnx
from nbnorm.interop.safetensors_files import load_safetensors, save_safetensors
from nbnorm.interop.torch_networks import from_torch, to_torch
from nbnorm.interop.trusted import trusted_types

__all__ = [
    "from_onnx",
    "from_torch",
    "load_safetensors",
    "save_safetensors",
    "to_onnx",
    "to_torch",
    "trusted_types",
]
