"""Drop-in replacements, one module for each library: its names, signatures and numbers, over this library's losses.

`lpips`, `piq`, `basicsr`, `torchmetrics`, `dists`, `taming`, `lpips_pytorch` and `piqa` are imported by name: `from
perceptual_ops.compat.lpips import LPIPS`. None needs the library it stands in for. All are frozen: no parameters, no
buffers, nothing that trains, `.train()` changes nothing; they print nothing and never write into the caller's tensors.
What a class does otherwise than its original, and which of its original's mistakes it repeats because they are part of
the numbers, its docstring says; arguments after the original's own are by keyword only.

A checkpoint of a model that held the original loads strictly. An optimizer that was given all parameters of that model
had the original's among them, and `load_state_dict` refuses its state, for a group of another size. They stood where
the loss stands: take their places, `count` from `first` on in the order of the model's parameters, out of its state:

    del state["param_groups"][0]["params"][first : first + count]
"""

from ._missing import add_missing_libraries

add_missing_libraries(__name__)
