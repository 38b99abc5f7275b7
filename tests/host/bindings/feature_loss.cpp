// The launchers of the feature loss for numpy, with the allocations of csrc/feature_loss/feature_loss_cuda.cpp.
#include "feature_loss/feature_loss.h"

#include "arguments.h"

using namespace perceptual_ops;

PYBIND11_MODULE(feature_loss, m) {
  bind_traffic(m);
  m.def("blocks", &feature_loss_blocks, "sample_size"_a);

  m.def(
      "feature_loss",
      [](const std::string& element, int64_t batch, int64_t size, int64_t stride_x, int64_t stride_y,
         const py::array& x, const py::array& y, const std::string& distance, double parameter, double value_scale,
         double weight, bool first_layer, const py::array& loss, uint64_t seed) {
        Arguments memory(element, seed);
        const SamplePair pair{memory.input("x", x), memory.input("y", y), batch, size, stride_x, stride_y};
        void* partial = memory.accumulators("partial", batch * feature_loss_blocks(size));
        void *values = memory.accumulators("values", batch), *losses = memory.changed("loss", loss);
        memory.check(launch_feature_loss(memory.element(), pair, distance_kind(distance).distance, parameter,
                                         value_scale, weight, first_layer, partial, values, losses, nullptr));
        return py::make_tuple(memory.result(values), memory.result(losses));
      },
      "element"_a, "batch"_a, "size"_a, "stride_x"_a, "stride_y"_a, "x"_a, "y"_a, "distance"_a, "parameter"_a,
      "value_scale"_a, "weight"_a, "first_layer"_a, "loss"_a, "seed"_a);

  m.def(
      "feature_loss_gradient",
      [](const std::string& element, int64_t batch, int64_t size, int64_t stride_x, int64_t stride_y,
         const py::array& x, const py::array& y, const std::string& distance, double parameter, double slope_scale,
         const py::array& grad, const py::array& dx, uint64_t seed) {
        Arguments memory(element, seed);
        const SamplePair pair{memory.input("x", x), memory.input("y", y), batch, size, stride_x, stride_y};
        const void* upstream = memory.input("grad", grad);
        void* gradient = memory.changed("dx", dx);
        memory.check(launch_feature_loss_gradient(memory.element(), pair, distance_kind(distance).distance, parameter,
                                                  slope_scale, upstream, gradient, nullptr));
        return memory.result(gradient);
      },
      "element"_a, "batch"_a, "size"_a, "stride_x"_a, "stride_y"_a, "x"_a, "y"_a, "distance"_a, "parameter"_a,
      "slope_scale"_a, "grad"_a, "dx"_a, "seed"_a);
}
