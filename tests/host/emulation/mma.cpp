// Which lane holds which element is written down from the tables of the PTX ISA (matrix fragments for mma.m16n8k8 and
// mma.m16n8k16, warp-level matrix load ldmatrix), and from no kernel.
#include <hostcuda/ledger.h>
#include <hostcuda/mma.h>
#include <hostcuda/tensor_core.h>

#include <cstring>

namespace hostcuda {
namespace {

constexpr int kRows = 16, kColumns = 8;  // of a product

struct Position {
  int row, column;
};

// The tables call these groupID and threadID_in_group.
inline int group_of(int lane) { return lane / 4; }
inline int member_of(int lane) { return lane % 4; }

// Element i = 0..3 of the accumulators.
inline Position sum_position(int lane, int i) {
  return {group_of(lane) + (i < 2 ? 0 : 8), member_of(lane) * 2 + (i & 1)};
}

// Two 16-bit elements a register, the lower half first.
template <class T>
struct Mma16 {
  static constexpr int kDepth = 16, kOfA = 8, kOfB = 4;
  static constexpr int kProductsAtOnce = 8;

  static Position a_position(int lane, int i) {
    const bool upper = i < 2 || (4 <= i && i < 6);
    return {group_of(lane) + (upper ? 0 : 8), member_of(lane) * 2 + (i & 1) + (i < 4 ? 0 : 8)};
  }
  static Position b_position(int lane, int i) {
    return {member_of(lane) * 2 + (i & 1) + (i < 2 ? 0 : 8), group_of(lane)};
  }
  static double element(const uint32_t* registers, int i) {
    const auto bits = static_cast<uint16_t>(registers[i / 2] >> (i % 2 * 16));
    T value;
    std::memcpy(&value, &bits, sizeof value);
    if constexpr (std::is_same_v<T, __half>) return __half2float(value);
    if constexpr (std::is_same_v<T, __nv_bfloat16>) return __bfloat162float(value);
  }
};

// One element a register, of which the hardware ignores the lower 13 bits.
struct MmaTf32 {
  static constexpr int kDepth = 8, kOfA = 4, kOfB = 2;
  static constexpr int kProductsAtOnce = 4;

  static Position a_position(int lane, int i) {
    return {group_of(lane) + (i == 0 || i == 2 ? 0 : 8), member_of(lane) + (i < 2 ? 0 : 4)};
  }
  static Position b_position(int lane, int i) { return {member_of(lane) + (i == 0 ? 0 : 4), group_of(lane)}; }
  static double element(const uint32_t* registers, int i) {
    const uint32_t bits = registers[i] & 0xffffe000u;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
};

// The new sums of every lane, kProductsAtOnce products at a time, as Ampere does.
template <class Kind>
void multiply(const char* name, const Lanes& lanes) {
  ledger.count_product(name);
  double a[kRows][Kind::kDepth];
  Doubles b[Kind::kDepth][kColumns / 4];
  Floats sums[kRows][kColumns / 4];
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto& mine = *static_cast<const MmaOperands*>(lanes[lane]);
    for (int i = 0; i < Kind::kOfA; ++i) {
      const Position at = Kind::a_position(lane, i);
      a[at.row][at.column] = Kind::element(mine.a, i);
    }
    for (int i = 0; i < Kind::kOfB; ++i) {
      const Position at = Kind::b_position(lane, i);
      b[at.row][at.column / 4][at.column % 4] = Kind::element(mine.b, i);
    }
    for (int i = 0; i < 4; ++i) {
      const Position at = sum_position(lane, i);
      sums[at.row][at.column / 4][at.column % 4] = mine.sums[i];
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int four = 0; four < kColumns / 4; ++four) {
      for (int first = 0; first < Kind::kDepth; first += Kind::kProductsAtOnce) {
        Doubles products[Kind::kProductsAtOnce];
        for (int i = 0; i < Kind::kProductsAtOnce; ++i) products[i] = a[row][first + i] * b[first + i][four];
        sums[row][four] = shifted_sum(products, sums[row][four]);
      }
    }
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto& mine = *static_cast<const MmaOperands*>(lanes[lane]);
    for (int i = 0; i < 4; ++i) {
      const Position at = sum_position(lane, i);
      mine.sums[i] = sums[at.row][at.column / 4][at.column % 4];
    }
  }
}

}  // namespace

void multiply_fp16(const Lanes& lanes) { multiply<Mma16<__half>>("mma_16x8x16", lanes); }
void multiply_bf16(const Lanes& lanes) { multiply<Mma16<__nv_bfloat16>>("mma_16x8x16", lanes); }
void multiply_tf32(const Lanes& lanes) { multiply<MmaTf32>("mma_16x8x8_tf32", lanes); }

void distribute(const Lanes& lanes, bool transpose) {
  for (int lane = 0; lane < kWarp; ++lane) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      const auto element = [&](int row, int column) -> uint32_t {
        return static_cast<const MatrixRows*>(lanes[8 * matrix + row])->row[column];
      };
      const int row = group_of(lane), column = 2 * member_of(lane);
      const uint32_t low = transpose ? element(column, row) : element(row, column);
      const uint32_t high = transpose ? element(column + 1, row) : element(row, column + 1);
      static_cast<MatrixRows*>(lanes[lane])->fragments[matrix] = low | high << 16;
    }
  }
}

}  // namespace hostcuda
