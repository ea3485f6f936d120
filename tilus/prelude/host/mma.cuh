// More products of tiles by one warp: elements of type A and B, sums of type C.
#pragma once

// An element of a register's word, by its place there.
template <class T> inline auto element_of(uint64_t word, int place) {
  return Element<T>::value((uint32_t)(word >> T::bits * place) & ((1u << T::bits) - 1));
}
// A word holds W neighbours along k. Lane 4g + t holds rows g and g + 8 of A, columns W t.. and
// W t + 4W..; rows W t.. and W t + 4W.. of column g of B; of D rows g and g + 8, columns 2t, 2t + 1.
template <class A, class B, class C> inline void multiply(uint32_t* d, const uint64_t (&mine)[6]) {
  constexpr int W = 32 / A::bits;
  const int lane = block.running % WARP, g = lane / 4, t = lane % 4;
  auto mail = exchange(mine, 6);
  uint32_t sums[4] = {};  // one in each word
  for (int i = 0; i < 4; i++) {
    const int row = i / 2, column = 2 * t + i % 2;
    const uint32_t bits = d[i * C::bits / 32] >> i * C::bits % 32;
    auto sum = Element<C>::value(C::bits == 16 ? bits & 0xFFFF : bits);
    for (int k = 0; k < 8 * W; k++) {
      const uint64_t a = mail[4 * g + k % (4 * W) / W][row + k / (4 * W) * 2];
      const uint64_t b = mail[4 * column + k % (4 * W) / W][4 + k / (4 * W)];
      sum += (decltype(sum))element_of<A>(a, k % W) * (decltype(sum))element_of<B>(b, k % W);
    }
    sums[i] = Element<C>::bits(sum);
  }
  for (int i = 0; i < 4 * C::bits / 32; i++)
    d[i] = C::bits == 32 ? sums[i] : sums[2 * i] | sums[2 * i + 1] << 16;
}

#define MMA(name, a_type, b_type, sum_type)                                                   \
  inline void name(uint32_t* d, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,           \
                   uint32_t b0, uint32_t b1) {                                                \
    multiply<a_type, b_type, sum_type>(d, {a0, a1, a2, a3, b0, b1});                          \
  }
using Signed = I<8>;
using Unsigned = U<8>;
using e4m3 = F<4, 3, FN>;
using e5m2 = F<5, 2, IEEE>;
MMA(mma_m16n8k16_f16_f16, F16, F16, F16)
MMA(mma_m16n8k32_s8_s8, Signed, Signed, I<32>)
MMA(mma_m16n8k32_u8_u8, Unsigned, Unsigned, I<32>)
MMA(mma_m16n8k32_u8_s8, Unsigned, Signed, I<32>)
MMA(mma_m16n8k32_s8_u8, Signed, Unsigned, I<32>)
MMA(mma_m16n8k32_e4m3_e4m3, e4m3, e4m3, F32)
MMA(mma_m16n8k32_e5m2_e5m2, e5m2, e5m2, F32)
MMA(mma_m16n8k32_e4m3_e5m2, e4m3, e5m2, F32)
MMA(mma_m16n8k32_e5m2_e4m3, e5m2, e4m3, F32)
