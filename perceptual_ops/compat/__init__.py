"""Drop-in replacements, one module for each library: its names, signatures and numbers, over this library's losses.

`lpips`, `piq`, `basicsr`, `torchmetrics` and `dists` are imported by name: `from perceptual_ops.compat.lpips import
LPIPS`. None needs the library it stands in for. All are frozen: no parameters, no buffers, nothing that trains,
`.train()` changes nothing; they print nothing and never write into the caller's tensors. What a class does otherwise
than its original, and which of its original's mistakes it repeats because they are part of the numbers, its docstring
says; arguments after the original's own are by keyword only.
"""
