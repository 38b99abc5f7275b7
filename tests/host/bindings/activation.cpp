// The launchers of a trunk's activations for numpy, with the allocations of csrc/activation/activation_cuda.cpp.
#include "activation/bias_relu.h"
#include "activation/l2_pool.h"
#include "activation/loss_scale.h"
#include "activation/normalize.h"
#include "activation/pool.h"
#include "arguments.h"

using namespace perceptual_ops;

namespace {

using Array = std::optional<py::array>;
using Shape = std::array<int64_t, 4>;                                 // N, C, H, W
using View = std::tuple<py::array, int64_t, std::array<int64_t, 4>>;  // memory, offset, strides

MapShape map_shape(const Shape& shape) { return {shape[0], shape[1], shape[2], shape[3]}; }

MapStrides map_strides(const View& view) {
  const auto& [n, c, h, w] = std::get<2>(view);
  return {n, c, h, w};
}

const void* maybe_input(Arguments& memory, const char* name, const Array& contents) {
  return contents ? memory.input(name, *contents) : nullptr;
}

// The first element of a view of `memory`.
template <class Pointer>
Pointer first_of(const View& view, Pointer memory) {
  const int64_t bytes = std::get<1>(view) * std::get<0>(view).itemsize();
  return static_cast<std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char*, char*>>(memory) +
         bytes;
}

BiasPointers bias_pointers(Arguments& memory, const Array& narrow, const Array& wide) {
  return {maybe_input(memory, "bias", narrow), maybe_input(memory, "bias", wide)};
}

// The zeros are `maxima`, and what becomes of them a result.
BackwardTerms backward_terms(Arguments& memory, const Array& signs, const void* tap, const Array& below,
                             const Array& factor, const Array& maxima) {
  return {static_cast<const uint8_t*>(maybe_input(memory, "signs", signs)), tap, maybe_input(memory, "below", below),
          maybe_input(memory, "factor", factor), maxima ? memory.changed("maxima", *maxima) : nullptr};
}

// Those that are there.
template <class... Buffers>
py::tuple results(const Arguments& memory, Buffers... buffers) {
  py::list arrays;
  for (const void* buffer : {static_cast<const void*>(buffers)...}) {
    if (buffer != nullptr) arrays.append(memory.result(buffer));
  }
  return py::tuple(arrays);
}

PoolKind kind_named(const std::string& name) {
  if (name == "max") return PoolKind::kMax;
  if (name == "average") return PoolKind::kAverage;
  if (name == "blur") return PoolKind::kBlur;
  throw std::invalid_argument("kind: got " + name);
}

using Window = std::tuple<std::string, int64_t, int64_t>;  // kind, kernel, stride

Pooling pooling_of(const Shape& shape, const Window& window) {
  const auto& [kind, kernel, stride] = window;
  return {kind_named(kind), kernel, stride, shape[2], shape[3]};
}

py::array normalize(const std::string& image_element, const std::string& element, const Shape& shape,
                    const View& images, const py::array& scale, const py::array& shift, uint64_t seed) {
  const Element from = Arguments(image_element, seed).element();
  Arguments memory(element, seed);
  void* result = memory.elements("result", shape[0] * map_shape(shape).size());
  memory.check(launch_normalize(from, memory.element(), map_shape(shape),
                                first_of(images, memory.input("images", std::get<0>(images))), map_strides(images),
                                memory.input("scale", scale), memory.input("shift", shift), result, nullptr));
  return memory.result(result);
}

py::array normalize_backward(const std::string& element, const Shape& shape, const py::array& grad,
                             const py::array& scale, const Array& factor, const std::optional<View>& add,
                             const View& result, uint64_t seed) {
  Arguments memory(element, seed);
  void* written = memory.changed("result", std::get<0>(result));
  memory.check(launch_normalize_backward(
      memory.element(), map_shape(shape), memory.input("grad", grad), memory.input("scale", scale),
      maybe_input(memory, "factor", factor), add ? first_of(*add, memory.input("add", std::get<0>(*add))) : nullptr,
      add ? map_strides(*add) : MapStrides{}, first_of(result, written), map_strides(result), nullptr));
  return memory.result(written);
}

// -> (x, signs); maps begin `before` elements into their memory
py::tuple bias_relu(const std::string& element, const Shape& shape, const py::array& x, int64_t before,
                    const Array& narrow, const Array& wide, bool signs, uint64_t seed) {
  Arguments memory(element, seed);
  const MapShape map = map_shape(shape);
  void* changed = memory.changed("x", x);
  uint8_t* bits = signs ? memory.bytes("signs", map.batch * ceil_div(map.size(), 8)) : nullptr;
  memory.check(launch_bias_relu(memory.element(), map, memory.at(changed, before), bias_pointers(memory, narrow, wide),
                                bits, nullptr));
  return results(memory, changed, bits);
}

// -> (grad, maxima)
py::tuple bias_relu_backward(const std::string& element, const Shape& shape, const py::array& grad, int64_t before,
                             const py::array& signs, const Array& tap, const Array& below, const Array& factor,
                             const Array& maxima, uint64_t seed) {
  Arguments memory(element, seed);
  void* changed = memory.changed("grad", grad);
  const BackwardTerms terms = backward_terms(memory, signs, maybe_input(memory, "tap", tap), below, factor, maxima);
  memory.check(
      launch_bias_relu_backward(memory.element(), map_shape(shape), memory.at(changed, before), terms, nullptr));
  return results(memory, changed, terms.maxima);
}

// -> (pooled, codes)
py::tuple bias_relu_pool(const std::string& element, const Shape& shape, const Window& window, const py::array& x,
                         int64_t before, const Array& narrow, const Array& wide, bool relu, bool codes, uint64_t seed) {
  Arguments memory(element, seed);
  const Pooling pooling = pooling_of(shape, window);
  void* pooled = memory.elements("pooled", shape[0] * shape[1] * pooling.out_height() * pooling.out_width());
  uint8_t* found = codes ? memory.bytes("codes", shape[0] * pooling.code_bytes(shape[1])) : nullptr;
  memory.check(launch_bias_relu_pool(memory.element(), shape[0], shape[1], pooling,
                                     memory.at(memory.input("x", x), before), bias_pointers(memory, narrow, wide), relu,
                                     pooled, found, nullptr));
  return results(memory, pooled, found);
}

// -> (x, pooled, signs, codes)
py::tuple bias_relu_pool_in_place(const std::string& element, const Shape& shape, const Window& window,
                                  const py::array& x, int64_t before, const Array& narrow, const Array& wide,
                                  bool signs, bool codes, uint64_t seed) {
  Arguments memory(element, seed);
  const MapShape map = map_shape(shape);
  const Pooling pooling = pooling_of(shape, window);
  void* changed = memory.changed("x", x);
  void* pooled = memory.elements("pooled", map.batch * map.channels * pooling.out_height() * pooling.out_width());
  uint8_t* bits = signs ? memory.bytes("signs", map.batch * ceil_div(map.size(), 8)) : nullptr;
  uint8_t* found = codes ? memory.bytes("codes", map.batch * pooling.code_bytes(map.channels)) : nullptr;
  memory.check(launch_bias_relu_pool_in_place(memory.element(), map.batch, map.channels, pooling,
                                              memory.at(changed, before), bias_pointers(memory, narrow, wide), pooled,
                                              bits, found, nullptr));
  return results(memory, changed, pooled, bits, found);
}

// -> (x, maxima)
py::tuple bias_relu_pool_backward(const std::string& element, const Shape& shape, const Window& window,
                                  const py::array& x, int64_t before, const py::array& grad, const Array& codes,
                                  const Array& signs, bool tap, const Array& below, const Array& factor,
                                  const Array& maxima, uint64_t seed) {
  Arguments memory(element, seed);
  void* changed = memory.changed("x", x);
  void* map = memory.at(changed, before);
  const BackwardTerms terms = backward_terms(memory, signs, tap ? map : nullptr, below, factor, maxima);
  memory.check(launch_bias_relu_pool_backward(
      memory.element(), shape[0], shape[1], pooling_of(shape, window), map, memory.input("grad", grad),
      static_cast<const uint8_t*>(maybe_input(memory, "codes", codes)), terms, nullptr));
  return results(memory, changed, terms.maxima);
}

py::tuple l2_pool(const std::string& element, const Shape& shape, const py::array& x, int64_t before, int64_t stride_x,
                  uint64_t seed) {
  Arguments memory(element, seed);
  const auto [batch, channels, height, width] = shape;
  void* pooled = memory.elements("pooled", batch * channels * l2_pooled(height) * l2_pooled(width));
  memory.check(launch_l2_pool(memory.element(), map_shape(shape), memory.at(memory.input("x", x), before), stride_x,
                              pooled, nullptr));
  return results(memory, pooled, nullptr);
}

// The samples of grad and x lie the strides apart; all three maps begin `before` elements into their memory.
py::tuple l2_pool_backward(const std::string& element, const Shape& shape, const py::array& grad, int64_t stride_grad,
                           const py::array& x, int64_t stride_x, const py::array& dx, int64_t before, uint64_t seed) {
  Arguments memory(element, seed);
  void* changed = memory.changed("dx", dx);
  memory.check(launch_l2_pool_backward(
      memory.element(), map_shape(shape), memory.at(memory.input("grad", grad), before), stride_grad,
      memory.at(memory.input("x", x), before), stride_x, memory.at(changed, before), nullptr));
  return results(memory, changed, nullptr);
}

py::array loss_scale(const std::string& element, const Array& scale, const Array& bound, const Array& grown,
                     float spread, const std::vector<py::array>& taps, const Array& grows, float room, int64_t batch,
                     uint64_t seed) {
  Arguments memory(element, seed);
  const auto input = [&](const char* name, const Array& numbers) {
    return static_cast<const float*>(maybe_input(memory, name, numbers));
  };
  LossScaling scaling{batch,
                      input("scale", scale),
                      input("bound", bound),
                      input("grown", grown),
                      spread,
                      static_cast<int>(taps.size()),
                      {},
                      input("grows", grows),
                      room,
                      static_cast<float*>(memory.accumulators("result", 4 * batch))};
  for (size_t i = 0; i < taps.size(); ++i) scaling.tap_bounds[i] = input("taps", taps[i]);
  memory.check(launch_loss_scale(scaling, nullptr));
  return memory.result(scaling.result);
}

}  // namespace

PYBIND11_MODULE(activation, m) {
  bind_common(m);
  m.def("normalize", &normalize, "image_element"_a, "element"_a, "shape"_a, "images"_a, "scale"_a, "shift"_a, "seed"_a);
  m.def("normalize_backward", &normalize_backward, "element"_a, "shape"_a, "grad"_a, "scale"_a, "factor"_a, "add"_a,
        "result"_a, "seed"_a);
  m.def("bias_relu", &bias_relu, "element"_a, "shape"_a, "x"_a, "before"_a, "narrow"_a, "wide"_a, "signs"_a, "seed"_a);
  m.def("bias_relu_backward", &bias_relu_backward, "element"_a, "shape"_a, "grad"_a, "before"_a, "signs"_a, "tap"_a,
        "below"_a, "factor"_a, "maxima"_a, "seed"_a);
  m.def("bias_relu_pool", &bias_relu_pool, "element"_a, "shape"_a, "window"_a, "x"_a, "before"_a, "narrow"_a, "wide"_a,
        "relu"_a, "codes"_a, "seed"_a);
  m.def("bias_relu_pool_in_place", &bias_relu_pool_in_place, "element"_a, "shape"_a, "window"_a, "x"_a, "before"_a,
        "narrow"_a, "wide"_a, "signs"_a, "codes"_a, "seed"_a);
  m.def("bias_relu_pool_backward", &bias_relu_pool_backward, "element"_a, "shape"_a, "window"_a, "x"_a, "before"_a,
        "grad"_a, "codes"_a, "signs"_a, "tap"_a, "below"_a, "factor"_a, "maxima"_a, "seed"_a);
  m.def("l2_pool", &l2_pool, "element"_a, "shape"_a, "x"_a, "before"_a, "stride_x"_a, "seed"_a);
  m.def("l2_pool_backward", &l2_pool_backward, "element"_a, "shape"_a, "grad"_a, "stride_grad"_a, "x"_a, "stride_x"_a,
        "dx"_a, "before"_a, "seed"_a);
  m.def("loss_scale", &loss_scale, "element"_a, "scale"_a, "bound"_a, "grown"_a, "spread"_a, "taps"_a, "grows"_a,
        "room"_a, "batch"_a, "seed"_a);
}
