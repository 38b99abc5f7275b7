// Prints where CuTe's traits say that the elements of tensor cores' operands are, as
//   instruction operand lane value element
// of mma: values of a lane in the order of its registers, elements down the columns of (M, K), (N, K) or (M, N); of
// ldmatrix: values and elements of 16 bits, elements by the rows that lanes point at.
#include <cstdio>
#include <cute/atom/copy_traits_sm75.hpp>
#include <cute/atom/mma_traits_sm80.hpp>
#include <cute/layout.hpp>

template <class Layout>
void print(const char* instruction, const char* operand, Layout layout, int bits) {
  for (int lane = 0; lane < 32; ++lane)
    for (int value = 0; value < cute::size<1>(layout) / bits; ++value)
      std::printf("%s %s %d %d %d\n", instruction, operand, lane, value, int(layout(lane, value * bits)) / bits);
}

template <class Operation>
void mma(const char* instruction) {
  using Traits = cute::MMA_Traits<Operation>;
  print(instruction, "A", typename Traits::ALayout{}, 1);
  print(instruction, "B", typename Traits::BLayout{}, 1);
  print(instruction, "C", typename Traits::CLayout{}, 1);
}

template <class Operation>
void ldmatrix(const char* instruction) {
  print(instruction, "to", typename cute::Copy_Traits<Operation>::DstLayout{}, 16);
}

int main() {
  mma<cute::SM80_16x8x16_F32F16F16F32_TN>("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32");
  mma<cute::SM80_16x8x16_F32BF16BF16F32_TN>("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32");
  mma<cute::SM80_16x8x8_F32TF32TF32F32_TN>("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32");
  ldmatrix<cute::SM75_U32x4_LDSM_N>("ldmatrix.sync.aligned.m8n8.x4.shared.b16");
  ldmatrix<cute::SM75_U16x8_LDSM_T>("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16");
}
