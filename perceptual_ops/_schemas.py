"""The schemas of the compiled operators, equal to csrc/library.cpp; a library with others is stale."""

from __future__ import annotations

SCHEMAS = {
    "gram_matrix": "(Tensor x, str normalize) -> Tensor",
    "gram_matrix_backward": "(Tensor grad, Tensor x, str normalize) -> Tensor",
    "style_loss": (
        "(Tensor[] features, Tensor[] target_grams, float[] weights, str normalize, str distance, float parameter) "
        "-> (Tensor, Tensor, Tensor[])"
    ),
    "style_loss_backward": "(Tensor? grad, Tensor[] features, Tensor[] slopes, Tensor?[] others) -> Tensor[]",
    "channel_statistics": "(Tensor[] features) -> Tensor[]",
    "channel_statistics_backward": (
        "(Tensor? grad, Tensor[] features, Tensor[] statistics, Tensor[] slopes, int[] pixels, Tensor?[] others) -> "
        "Tensor[]"
    ),
    "feature_loss": (
        "(Tensor[] features, Tensor[] targets, float[] weights, str distance, float parameter) -> (Tensor, Tensor)"
    ),
    "feature_loss_backward": (
        "(Tensor grad, Tensor[] features, Tensor[] targets, float[] weights, str distance, float parameter) -> Tensor[]"
    ),
    "feature_loss_with_gradient": (
        "(Tensor[] features, Tensor[] targets, float[] weights, str distance, float parameter, Tensor? grad=None) -> "
        "(Tensor, Tensor, Tensor[])"
    ),
    "lpips_distance": (
        "(Tensor[] features, Tensor[] targets, Tensor[] channel_weights, float eps, bool eps_inside) -> (Tensor, "
        "Tensor)"
    ),
    "lpips_distance_backward": (
        "(Tensor grad, Tensor[] features, Tensor[] targets, Tensor[] channel_weights, float eps, bool eps_inside, "
        "bool by_features, bool by_targets) -> (Tensor[], Tensor[])"
    ),
    "lpips_distance_with_gradient": (
        "(Tensor[] features, Tensor[] targets, Tensor[] channel_weights, float eps, bool eps_inside, Tensor? grad, "
        "bool by_features, bool by_targets) -> (Tensor, Tensor, Tensor[], Tensor[])"
    ),
    "lpips_map": (
        "(Tensor[] features, Tensor[] targets, Tensor[] channel_weights, float eps, bool eps_inside) -> Tensor[]"
    ),
    "lpips_map_backward": (
        "(Tensor[] grads, Tensor[] features, Tensor[] targets, Tensor[] channel_weights, float eps, bool eps_inside, "
        "bool by_features, bool by_targets) -> (Tensor[], Tensor[])"
    ),
    "dists_distance": (
        "(Tensor[] features, Tensor[] targets, Tensor[] alpha, Tensor[] beta) -> (Tensor, Tensor, Tensor[])"
    ),
    "dists_distance_backward": (
        "(Tensor grad, Tensor[] features, Tensor[] targets, Tensor[] alpha, Tensor[] beta, Tensor[] statistics, bool "
        "by_features, bool by_targets) -> (Tensor[], Tensor[])"
    ),
    "total_variation": "(Tensor x, str kind) -> Tensor",
    "total_variation_backward": "(Tensor grad, Tensor x, str kind) -> Tensor",
    "total_variation_with_gradient": "(Tensor x, str kind, Tensor? grad=None) -> (Tensor, Tensor)",
    "normalize_images": "(Tensor images, Tensor scale, Tensor shift, ScalarType dtype) -> Tensor",
    "normalize_images_backward": "(Tensor grad, Tensor images, Tensor scale, Tensor? factor, Tensor? add) -> Tensor",
    "bias_relu_": "(Tensor(a!) x, Tensor? bias, bool signs) -> Tensor",
    "bias_relu_backward_": (
        "(Tensor(a!) grad, Tensor signs, Tensor? tap, Tensor? below, Tensor? factor, Tensor(b!)? maxima) -> ()"
    ),
    "bias_relu_pool": (
        "(Tensor x, Tensor? bias, bool relu, str kind, int kernel, int stride, bool codes) -> (Tensor, Tensor)"
    ),
    "bias_relu_pool_": (
        "(Tensor(a!) x, Tensor? bias, str kind, int kernel, int stride, bool keep) -> (Tensor, Tensor, Tensor)"
    ),
    "bias_relu_pool_backward_": (
        "(Tensor(a!) x, Tensor grad, Tensor? codes, Tensor? signs, bool tap, Tensor? below, Tensor? factor, str "
        "kind, int kernel, int stride, Tensor(b!)? maxima) -> ()"
    ),
    "l2_pool": "(Tensor x) -> Tensor",
    "l2_pool_backward": "(Tensor grad, Tensor x) -> Tensor",
    "loss_scale": (
        "(Tensor? scale, Tensor? bound, Tensor? grown, float spread, Tensor[] taps, Tensor? grows, float room) -> "
        "Tensor"
    ),
    "build_info": "() -> str",
}
