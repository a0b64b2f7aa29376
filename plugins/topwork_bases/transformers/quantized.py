"""Quantised bases: `quantization_config` for transformers, and why a base cannot be quantised.

8-bit weights by torchao need no GPU; bitsandbytes has 8 and 4 bits (NF4, of QLoRA, Dettmers et al. 2023), on a GPU.
Other methods are refused by name.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from topwork import BaseOptions, UsageError

#: method -> package that is imported
_PACKAGES = {"torchao": "torchao", "bitsandbytes": "bitsandbytes", "quanto": "optimum.quanto"}


def check_quantize(name: str, options: BaseOptions) -> None:
    """Refuse a base that cannot be quantised here, before anything is loaded.

    Raises:
        UsageError: names the package or the GPU that is missing, or the option that does not go with it.
    """
    if options.quantize is None:
        return
    method, location = options.quantize.method, f"base {name}: quantize"
    if options.config is not None or not options.weights:
        raise UsageError("random weights are not quantised", place=location, hint="leave `quantize` out")
    if method == "bitsandbytes" and not _has_gpu():
        raise UsageError("bitsandbytes needs a GPU, and there is none", place=location, hint="say `method: torchao`")
    if not _is_installed(_PACKAGES[method]):
        hint = "pip install 'topwork[quantize]'" if method == "torchao" else "say `method: torchao`"
        raise UsageError(f"the package {_PACKAGES[method]} is not installed", place=location, hint=hint)
    if method == "quanto":
        raise UsageError(f"`{method}` is not supported yet", place=location, hint="say `method: torchao`")
    if method == "torchao" and options.quantize.bits != 8:
        raise UsageError("torchao quantises to 8 bits here", place=f"{location}.bits", hint="or use bitsandbytes")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of `optimum.quanto` without `optimum`
        return False


def quantization_config(options: BaseOptions) -> dict[str, Any]:
    """Return the arguments for `from_pretrained`; none for a base that is not quantised."""
    if options.quantize is None:
        return {}
    if options.quantize.method == "bitsandbytes":
        from transformers import BitsAndBytesConfig

        if options.quantize.bits == 8:
            return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
        four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
        return {"quantization_config": four}
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}
