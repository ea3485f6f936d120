// More products of tiles by one warp, the accumulator in place.
#pragma once

// 9.7.14.5.8 mma.m16n8k16 with sums in float16: two words
FUNCTION void mma_m16n8k16_f16_f16(uint32_t* d, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                   uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 "
      "{%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
      : "+r"(d[0]), "+r"(d[1]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// 9.7.14.5.10 mma.m16n8k32; of 8-bit floats from sm_89 on
#define MMA_M16N8K32(a_type, b_type, sum_type)                                                     \
  FUNCTION void mma_m16n8k32_##a_type##_##b_type(uint32_t* d, uint32_t a0, uint32_t a1,            \
                                                 uint32_t a2, uint32_t a3, uint32_t b0,            \
                                                 uint32_t b1) {                                    \
    asm("mma.sync.aligned.m16n8k32.row.col." sum_type "." #a_type "." #b_type "." sum_type         \
        " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                         \
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                           \
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));                                   \
  }
MMA_M16N8K32(s8, s8, "s32")
MMA_M16N8K32(u8, u8, "s32")
MMA_M16N8K32(u8, s8, "s32")
MMA_M16N8K32(s8, u8, "s32")
MMA_M16N8K32(e4m3, e4m3, "f32")
MMA_M16N8K32(e5m2, e5m2, "f32")
MMA_M16N8K32(e4m3, e5m2, "f32")
MMA_M16N8K32(e5m2, e4m3, "f32")
