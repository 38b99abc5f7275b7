"""Drop-in replacements, one module for each library: its names, signatures and numbers, over this library's losses.

`lpips`, `piq`, `basicsr`, `torchmetrics`, `dists`, `taming`, `lpips_pytorch` and `piqa` are imported by name: `from
perceptual_ops.compat.lpips import LPIPS`. None needs the library it stands in for. All are frozen: no parameters, no
buffers, nothing to train; ``.train()`` changes nothing. They print nothing and never write into the caller's tensors.
Docstrings list deviations from the original, and bugs of it that are kept for parity. Arguments after the original's
own are keyword-only.

A checkpoint of a model that held the original loads strictly. An optimizer that was given all parameters of that model
holds the original's, too, and `load_state_dict` refuses its state: the group has another size. Remove the original's
entries, `count` from `first` on in the order of the model's parameters::

    del state["param_groups"][0]["params"][first : first + count]
"""

from ._missing import add_missing_libraries

add_missing_libraries(__name__)
