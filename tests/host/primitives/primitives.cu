// Kernels that show what one primitive does, right or wrong, for tests/test_host_primitives.py. Plain CUDA, so that a
// GPU can be asked the same questions.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>

#include "common/async_copy.cuh"
#include "common/launch.h"
#include "common/mma.cuh"
#include "common/reduce.cuh"
#include "common/shared.cuh"
#include "common/vec.cuh"
#include "primitives.h"

namespace perceptual_ops {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ int thread() { return threadIdx.x; }

// --- the order of threads -------------------------------------------------------------------------------------------

__global__ void indices(const uint32_t*, uint32_t* out) {
  out[blockIdx.x * blockDim.x + threadIdx.x] = blockIdx.x << 16 | gridDim.x << 12 | threadIdx.x;
}

// Every thread takes what its neighbour put down, with or without a barrier between.
template <bool kBarrier>
__global__ void neighbours(const uint32_t* in, uint32_t* out) {
  using Values = uint32_t[256];
  PO_SHARED(Values, values);
  values[thread()] = in[thread()];
  if (kBarrier) __syncthreads();
  out[thread()] = values[(thread() + 1) % blockDim.x];
}

// A buffer is filled again and again; without the second barrier the quick overtake the slow.
template <bool kBarrier>
__global__ void buffer_reuse(const uint32_t* in, uint32_t* out) {
  using Values = uint32_t[256];
  PO_SHARED(Values, values);
  uint32_t sum = 0;
  for (uint32_t round = 0; round < 4; ++round) {
    values[thread()] = in[thread()] + round;
    __syncthreads();
    sum += values[(thread() + 1) % blockDim.x];
    if (kBarrier) __syncthreads();
  }
  out[thread()] = sum;
}

__global__ void divergent_barrier(const uint32_t*, uint32_t* out) {
  if (threadIdx.x < 40) return;
  __syncthreads();
  out[thread()] = 1;
}

__global__ void two_barriers(const uint32_t*, uint32_t* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[thread()] = 1;
}

// --- memory ---------------------------------------------------------------------------------------------------------

__global__ void unwritten_shared(const uint32_t*, uint32_t* out) {
  using Values = uint32_t[32];
  PO_SHARED(Values, values);
  out[blockIdx.x * 32 + threadIdx.x] = values[thread()];
  values[thread()] = 7;
}

__global__ void write_outside(const uint32_t* in, uint32_t* out) { out[thread() + int(in[0])] = 1; }

__global__ void write_input(const uint32_t* in, uint32_t* out) {
  out[thread()] = 0;
  const_cast<uint32_t*>(in)[0] = 3;
}

__global__ void write_after_shared(const uint32_t* in, uint32_t* out) {
  using Values = uint32_t[32];
  PO_SHARED(Values, values);
  uint32_t* first = values;
  first[thread() + in[0]] = 1;
  out[thread()] = 1;
}

__global__ void dynamic_shared(const uint32_t* in, uint32_t* out) {
  PO_DYNAMIC_SHARED(bytes);
  uint32_t* words = reinterpret_cast<uint32_t*>(bytes);
  words[thread()] = in[thread()];
  __syncthreads();
  out[thread()] = words[blockDim.x - 1 - thread()];
}

__global__ void much_static_shared(const uint32_t*, uint32_t* out) {
  using Values = uint32_t[12 * 1024 + 1];  // four bytes over
  PO_SHARED(Values, values);
  out[0] = values[0];
}

// Sixteen bytes from word in[0] on.
__global__ void packs(const uint32_t* in, uint32_t* out) { store_pack(out, load_pack(in + in[0])); }
__global__ void misaligned_store(const uint32_t* in, uint32_t* out) { store_pack(out + in[0], load_pack(in)); }

// --- warps ----------------------------------------------------------------------------------------------------------

__global__ void shuffles(const uint32_t* in, uint32_t* out) {
  const uint32_t value = in[thread()];
  const uint32_t results[] = {
      __shfl_sync(kAllLanes, value, 5),         __shfl_sync(kAllLanes, value, 9, 8),
      __shfl_up_sync(kAllLanes, value, 3),      __shfl_up_sync(kAllLanes, value, 3, 16),
      __shfl_down_sync(kAllLanes, value, 3),    __shfl_down_sync(kAllLanes, value, 3, 16),
      __shfl_xor_sync(kAllLanes, value, 6),     __shfl_xor_sync(kAllLanes, value, 6, 4),
      __ballot_sync(kAllLanes, value % 3 == 0),
  };
  for (int i = 0; i < 9; ++i) out[i * blockDim.x + threadIdx.x] = results[i];
}

__global__ void missing_lanes(const uint32_t* in, uint32_t* out) {
  uint32_t value = in[thread()];
  if (threadIdx.x % kWarp < 16) value = __shfl_xor_sync(kAllLanes, value, 1);
  out[thread()] = value;
}

// The halves of a warp go their own ways.
__global__ void half_warps(const uint32_t* in, uint32_t* out) {
  const uint32_t value = in[thread()];
  if (threadIdx.x % kWarp < 16) {
    out[thread()] = __shfl_xor_sync(0x0000ffffu, value, 1);
  } else {
    out[thread()] = __shfl_xor_sync(0xffff0000u, value, 2);
  }
}

__global__ void divergent_warp(const uint32_t* in, uint32_t* out) {
  const uint32_t value = in[thread()];
  if (threadIdx.x % kWarp < 16) {
    out[thread()] = __shfl_xor_sync(kAllLanes, value, 1);
  } else {
    out[thread()] = __shfl_down_sync(kAllLanes, value, 1);
  }
}

template <bool kBarrier>
__global__ void warp_neighbours(const uint32_t* in, uint32_t* out) {
  using Values = uint32_t[64];
  PO_SHARED(Values, values);
  const int first = thread() / kWarp * kWarp;
  values[thread()] = in[thread()];
  if (kBarrier) __syncwarp();
  out[thread()] = values[first + (thread() + 1) % kWarp];
}

// --- asynchronous copies --------------------------------------------------------------------------------------------

struct alignas(16) Words {
  uint32_t data[2 * 32 * 4];
};

// Two groups of 16 bytes a thread, and what is seen before and after each wait: out (4, words) = before both waits, of
// the first group after its wait, of the second then, of the second after its wait.
__global__ void copies(const uint32_t* in, uint32_t* out) {
  PO_SHARED(Words, words);
  uint32_t *first = words.data + 4 * threadIdx.x, *second = first + 4 * 32;
  const auto show = [&](int row, const uint32_t* four) {
    for (int i = 0; i < 4; ++i) out[row * 128 + 4 * threadIdx.x + i] = four[i];
  };
  for (int i = 0; i < 4; ++i) first[i] = second[i] = 5;
  copy_async(first, in + 4 * threadIdx.x);
  commit_copies();
  copy_async(second, in + 4 * threadIdx.x, 8);
  commit_copies();
  show(0, first);
  wait_copies<1>();
  show(1, first);
  show(2, second);
  wait_copies<0>();
  show(3, second);
}

__global__ void misaligned_copy(const uint32_t* in, uint32_t* out) {
  PO_SHARED(Words, words);
  copy_async(words.data, in + 1);
  out[0] = words.data[0];
}

// A plain array of words is aligned to four bytes.
__global__ void copy_to_unaligned_shared(const uint32_t* in, uint32_t* out) {
  using Plain = uint32_t[4];
  PO_SHARED(Plain, words);
  copy_async(words, in);
  out[0] = words[0];
}

__global__ void copy_to_global(const uint32_t* in, uint32_t* out) { copy_async(out, in); }

// --- tensor cores ---------------------------------------------------------------------------------------------------

// in (32, 4): a row of 8 16-bit elements for each lane; out (4, 32): the words of each lane
template <bool kTranspose>
__global__ void matrix_load(const uint32_t* in, uint32_t* out) {
  PO_SHARED(Words, words);
  for (int i = 0; i < 4; ++i) words.data[4 * threadIdx.x + i] = in[4 * threadIdx.x + i];
  __syncthreads();
  uint32_t fragments[4];
  load_matrices<kTranspose>(fragments, words.data + 4 * threadIdx.x);
  for (int i = 0; i < 4; ++i) out[32 * i + threadIdx.x] = fragments[i];
}

__global__ void matrix_load_from_global(const uint32_t* in, uint32_t* out) {
  uint32_t fragments[4];
  load_matrices<false>(fragments, in + 4 * threadIdx.x);
  out[thread()] = fragments[0];
}

// in (10, 32): the 4 words of a, 2 of b and 4 of the sums of each lane; out (4, 32): the sums
template <class T>
__global__ void product(const uint32_t* in, uint32_t* out) {
  uint32_t a[4], b[2];
  float sums[4];
  const uint32_t* mine = in + threadIdx.x;
  for (int i = 0; i < 4; ++i) a[i] = mine[32 * i];
  for (int i = 0; i < 2; ++i) b[i] = mine[32 * (4 + i)];
  for (int i = 0; i < 4; ++i) memcpy(&sums[i], &mine[32 * (6 + i)], sizeof(float));
  if constexpr (std::is_same_v<T, float>) {
    mma_16x8x8_tf32(sums, a, b);
  } else {
    mma_16x8x16<T>(sums, a, b);
  }
  for (int i = 0; i < 4; ++i) memcpy(&out[32 * i + threadIdx.x], &sums[i], sizeof(float));
}

// --- banks of shared memory -----------------------------------------------------------------------------------------

struct alignas(8) Two {
  uint32_t data[2];
};
struct alignas(16) Four {
  uint32_t data[4];
};

// Every thread's number lies in[0] bytes behind that of the one before.
template <class Number>
__global__ void strided_numbers(const uint32_t* in, uint32_t* out) {
  PO_DYNAMIC_SHARED(bytes);
  Number& mine = *reinterpret_cast<Number*>(bytes + threadIdx.x * in[0]);
  mine = Number{};
  __syncwarp();
  const Number loaded = mine;
  memcpy(&out[thread()], &loaded, min(sizeof loaded, sizeof(uint32_t)));
}

// The same of rows of 16 bytes.
__global__ void strided_rows(const uint32_t* in, uint32_t* out) {
  PO_DYNAMIC_SHARED(bytes);
  unsigned char* row = bytes + threadIdx.x * in[0];
  copy_async(row, in);
  commit_copies();
  wait_copies<0>();
  __syncwarp();
  uint32_t fragments[4];
  load_matrices<false>(fragments, row);
  out[thread()] = fragments[0];
}

// --- arithmetic -----------------------------------------------------------------------------------------------------

__global__ void wide_shift(const uint32_t* in, uint32_t* out) { out[thread()] = 1u << in[thread()]; }

struct Primitive {
  const char* name;
  void (*kernel)(const uint32_t*, uint32_t*);
};

constexpr Primitive kPrimitives[] = {
    {"indices", indices},
    {"neighbours", neighbours<true>},
    {"neighbours without barrier", neighbours<false>},
    {"buffer reuse", buffer_reuse<true>},
    {"buffer reuse without barrier", buffer_reuse<false>},
    {"divergent barrier", divergent_barrier},
    {"two barriers", two_barriers},
    {"unwritten shared", unwritten_shared},
    {"write outside", write_outside},
    {"write input", write_input},
    {"write after shared", write_after_shared},
    {"dynamic shared", dynamic_shared},
    {"much static shared", much_static_shared},
    {"packs", packs},
    {"misaligned store", misaligned_store},
    {"shuffles", shuffles},
    {"missing lanes", missing_lanes},
    {"half warps", half_warps},
    {"divergent warp", divergent_warp},
    {"warp neighbours", warp_neighbours<true>},
    {"warp neighbours without barrier", warp_neighbours<false>},
    {"copies", copies},
    {"misaligned copy", misaligned_copy},
    {"copy to unaligned shared", copy_to_unaligned_shared},
    {"copy to global", copy_to_global},
    {"matrix load", matrix_load<false>},
    {"matrix load transposed", matrix_load<true>},
    {"matrix load from global", matrix_load_from_global},
    {"product fp16", product<__half>},
    {"product bf16", product<__nv_bfloat16>},
    {"product tf32", product<float>},
    {"strided 2 bytes", strided_numbers<uint16_t>},
    {"strided 4 bytes", strided_numbers<uint32_t>},
    {"strided 8 bytes", strided_numbers<Two>},
    {"strided 16 bytes", strided_numbers<Four>},
    {"strided rows", strided_rows},
    {"wide shift", wide_shift},
};

}  // namespace

cudaError_t launch_primitive(const std::string& name, int64_t blocks, int threads, int shared_bytes, const uint32_t* in,
                             uint32_t* out, cudaStream_t stream) {
  for (const Primitive& primitive : kPrimitives) {
    if (primitive.name != name) continue;
    launch_kernel(primitive.kernel, blocks, threads, shared_bytes, stream, in, out);
    return cudaGetLastError();
  }
  return cudaErrorInvalidConfiguration;
}

}  // namespace perceptual_ops
