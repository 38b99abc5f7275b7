"""What `make check-wheel` runs in the wheel's environment: an import, one loss and its gradient, compiled."""

import torch

import perceptual_ops as po
from perceptual_ops._native import native

criterion = po.PerceptualLoss("vgg16", weights="random", content_layers=["relu2_2"], backend="native")
output = torch.rand(2, 3, 32, 32, requires_grad=True)
criterion(output, torch.rand(2, 3, 32, 32)).backward()
assert output.grad is not None
assert "build/wheel" in po.__file__, po.__file__
print(
    f"{po.__file__}: gradient norm {output.grad.norm():.3e}, "
    f"torch {torch.__version__}, CUDA part {native.build_info['cuda'] or native.cuda_reason}"
)
