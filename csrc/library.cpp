// Every operator's schema, once. Backends register their kernels beside them; fakes and gradients are Python's
// (perceptual_ops/_autograd.py). Shapes of arguments and results: perceptual_ops/ops.py.
#include <torch/csrc/stable/library.h>

#include <string>

namespace perceptual_ops {
namespace {

// What `perceptual-ops doctor` shows of this file: key=value, one a line.
std::string build_info() {
  return "version=" PO_VERSION "\ntorch_headers=" PO_TORCH_VERSION "\ntorch_target=2.10\ncompiler=" PO_COMPILER
         "\ncuda=" PO_CUDA_VERSION "\ncuda_architectures=" PO_CUDA_ARCHITECTURES "\ncuda_reason=" PO_CUDA_REASON;
}

}  // namespace

STABLE_TORCH_LIBRARY(perceptual_ops, m) {
  m.def("gram_matrix(Tensor x, str normalize) -> Tensor");
  m.def("gram_matrix_backward(Tensor grad, Tensor x, str normalize) -> Tensor");

  // -> loss (N), unweighted value of each layer (L, N), d loss / d raw Gram, symmetrised, L x (N, C, C)
  m.def(
      "style_loss(Tensor[] features, Tensor[] target_grams, float[] weights, str normalize, str distance, "
      "float parameter) -> (Tensor, Tensor, Tensor[])");
  // Gradients of sum of grad * loss, with ones for no grad, each plus the gradient that a layer may have already
  m.def("style_loss_backward(Tensor? grad, Tensor[] features, Tensor[] slopes, Tensor?[] others) -> Tensor[]");

  // -> L x (N, 2, C): mean and sqrt(variance + 1e-5) of every channel over the pixels
  m.def("channel_statistics(Tensor[] features) -> Tensor[]");
  // Gradients of sum of grad * loss, with ones for no grad, from d loss / d statistics, which are over `pixels` each
  // (may be more than the features'), each plus the gradient that a layer may have already
  m.def(
      "channel_statistics_backward(Tensor? grad, Tensor[] features, Tensor[] statistics, Tensor[] slopes, int[] "
      "pixels, "
      "Tensor?[] others) -> Tensor[]");

  // -> loss (N), unweighted value of each layer (L, N)
  m.def(
      "feature_loss(Tensor[] features, Tensor[] targets, float[] weights, str distance, float parameter) "
      "-> (Tensor, Tensor)");
  m.def(
      "feature_loss_backward(Tensor grad, Tensor[] features, Tensor[] targets, float[] weights, str distance, "
      "float parameter) -> Tensor[]");
  // Both in one pass over the features: -> loss (N), values (L, N), d (sum of grad * loss) /
  // d features, with ones for no grad
  m.def(
      "feature_loss_with_gradient(Tensor[] features, Tensor[] targets, float[] weights, str distance, float parameter, "
      "Tensor? grad=None) -> (Tensor, Tensor, Tensor[])");

  // LPIPS: features and targets scaled to unit length over the channels of each pixel, channel_weights (C) times the
  // squares of their difference, summed over channels and averaged over pixels -> loss (N), value of each layer (L, N)
  m.def(
      "lpips_distance(Tensor[] features, Tensor[] targets, Tensor[] channel_weights, float eps, bool eps_inside) "
      "-> (Tensor, Tensor)");
  // Gradients of sum of grad * loss with respect to features and targets, each (N, C, H, W) a layer; empty lists where
  // not wanted
  m.def(
      "lpips_distance_backward(Tensor grad, Tensor[] features, Tensor[] targets, Tensor[] channel_weights, float eps, "
      "bool eps_inside, bool by_features, bool by_targets) -> (Tensor[], Tensor[])");
  // All in one pass over the pixels, with ones for no grad
  m.def(
      "lpips_distance_with_gradient(Tensor[] features, Tensor[] targets, Tensor[] channel_weights, float eps, "
      "bool eps_inside, Tensor? grad, bool by_features, bool by_targets) -> (Tensor, Tensor, Tensor[], Tensor[])");
  // The distance of each pixel, L x (N, 1, H, W), and its gradients
  m.def(
      "lpips_map(Tensor[] features, Tensor[] targets, Tensor[] channel_weights, float eps, bool eps_inside) "
      "-> Tensor[]");
  m.def(
      "lpips_map_backward(Tensor[] grads, Tensor[] features, Tensor[] targets, Tensor[] channel_weights, float eps, "
      "bool eps_inside, bool by_features, bool by_targets) -> (Tensor[], Tensor[])");

  // DISTS: alpha (C) times the distance of means plus beta (C) times that of structures -> loss (N), value of each
  // layer (L, N), statistics L x (N, 6, C): means of x, y and x - y, their variances
  m.def(
      "dists_distance(Tensor[] features, Tensor[] targets, Tensor[] alpha, Tensor[] beta) "
      "-> (Tensor, Tensor, Tensor[])");
  m.def(
      "dists_distance_backward(Tensor grad, Tensor[] features, Tensor[] targets, Tensor[] alpha, Tensor[] beta, "
      "Tensor[] statistics, bool by_features, bool by_targets) -> (Tensor[], Tensor[])");

  m.def("total_variation(Tensor x, str kind) -> Tensor");
  m.def("total_variation_backward(Tensor grad, Tensor x, str kind) -> Tensor");
  // Both in one pass over the images: -> values (N), d (sum of grad * values) / dx, with ones for no grad
  m.def("total_variation_with_gradient(Tensor x, str kind, Tensor? grad=None) -> (Tensor, Tensor)");

  // What a frozen trunk does between its convolutions. Maps are channels_last and dense; what is only read is copied
  // where it is not. Sums of gradients are fp32 (fp64 for fp64) and rounded once. `factor` (N) multiplies what comes
  // in. y = images * scale + shift by channel, in `dtype` and channels_last
  m.def("normalize_images(Tensor images, Tensor scale, Tensor shift, ScalarType dtype) -> Tensor");
  // -> factor * scale * grad + add, in fp32 (fp64 for fp64), laid out like the images
  m.def("normalize_images_backward(Tensor grad, Tensor images, Tensor scale, Tensor? factor, Tensor? add) -> Tensor");
  // x = relu(x + bias) -> where it is positive or NaN, (N, ceil(C H W / 8)) uint8 in the map's order, lowest bit first;
  // empty where not wanted
  m.def("bias_relu_(Tensor(a!) x, Tensor? bias, bool signs) -> Tensor");
  // grad = signs ? factor * grad + tap : 0, plus below; maxima (N) are raised to the largest magnitude of each sample
  m.def(
      "bias_relu_backward_(Tensor(a!) grad, Tensor signs, Tensor? tap, Tensor? below, Tensor? factor, "
      "Tensor(b!)? maxima) -> ()");
  // Pooling of relu(x + bias) or x + bias -> pooled map, and which element of each window was the first maximum: four
  // bits a window (eight from kernel 4 on) in the map's order, all set where no gradient passes the ReLU. Empty where
  // not wanted, and for "average".
  m.def(
      "bias_relu_pool(Tensor x, Tensor? bias, bool relu, str kind, int kernel, int stride, bool codes) "
      "-> (Tensor, Tensor)");
  // bias_relu_, and the pooling of what x is then -> pooled map, signs, and which element of each window was the first
  // maximum: where all are zero, too. Both empty where not to be kept for a backward
  m.def(
      "bias_relu_pool_(Tensor(a!) x, Tensor? bias, str kind, int kernel, int stride, bool keep) "
      "-> (Tensor, Tensor, Tensor)");
  // x = (signs ? factor * (gradient of the pooling) + tap : 0) + below, where tap is what x holds before, if `tap`;
  // maxima as of bias_relu_backward_
  m.def(
      "bias_relu_pool_backward_(Tensor(a!) x, Tensor grad, Tensor? codes, Tensor? signs, bool tap, Tensor? below, "
      "Tensor? factor, str kind, int kernel, int stride, Tensor(b!)? maxima) -> ()");

  // DISTS's pooling: the root of the squares filtered by [1, 2, 1] / 4 each way, at stride 2 and zero padding 1, plus
  // 1e-12. The backward reads the map that was pooled
  m.def("l2_pool(Tensor x) -> Tensor");
  m.def("l2_pool_backward(Tensor grad, Tensor x) -> Tensor");

  // Loss scaling of an fp16 gradient, in fp32. By now its magnitude, times `scale` (N), is at most `bound` (N) times
  // `grown` (); before it is written again it may grow by `spread`, and gradients of at most `taps`, K x (N), not
  // scaled, are added; then it may grow by `grows` (). -> (4, N): the largest power of two, of 2^-60 to 2^60, with
  // which it stays within `room`; that over `scale`; the bound of what is written; zeros to become its maxima. None
  // stands for ones, of `bound` for no gradient yet
  m.def(
      "loss_scale(Tensor? scale, Tensor? bound, Tensor? grown, float spread, Tensor[] taps, Tensor? grows, "
      "float room) -> Tensor");

  m.def("build_info() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&build_info));
}

}  // namespace perceptual_ops
