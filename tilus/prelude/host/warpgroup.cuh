// Products of four warps together: begun here, done where they are waited for, with what shared
// memory holds by then.
#pragma once
#include "descriptor.cuh"

struct Product {
  uint32_t* d;
  float a[2][16];  // the lane's two rows
  Descriptor b;
  int columns, group, line;
  bool bf16;
};
constexpr int MOST_PRODUCTS = 256;
struct Products {
  Product begun[MOST_PRODUCTS];
  int count, group;
};
static Products* products;  // by block and thread
inline Products& products_of(int thread) { return products[block.rank * block.threads + thread]; }

// The element in `row` and `column` of a tile of 16-bit elements, through the descriptor and the
// swizzle: 16-byte parts of a row change places as its number modulo 8 says.
inline uint16_t element_at(Descriptor tile, int row, int column, int line) {
  const int next = (int)(tile >> 32 & 0x3FFF) << 4, start = (int)(tile & 0x3FFF) << 4;
  if (tile >> 62 != SWIZZLE_128 >> 62) return 0x7E00;  // not a number in float16
  const int at = start + row / GROUP_ROWS * next + row % GROUP_ROWS * ROW_BYTES + 2 * column;
  const char* from = block.shared + (at ^ (at >> 7 & 7) << 4);
  uint16_t bits = 0x7E00;
  if (touch(from, 2, READS, line)) memcpy(&bits, from, 2);
  return bits;
}
inline unsigned uniform(unsigned number) { return number; }
inline Descriptor matrix_descriptor(const char* tile) { return descriptor_of((uint32_t)(tile - block.shared)); }

inline void warpgroup_dot(uint32_t* d, const uint64_t* mine, Descriptor b, int columns, bool bf16,
                          int line) {
  const int thread = block.running, g = thread % WARP / 4;
  Products& mine_too = products_of(thread);
  auto mail = exchange(mine, 4);
  if (mine_too.count == MOST_PRODUCTS) abort();  // nobody waits for so many
  Product& product = mine_too.begun[mine_too.count++];
  product.d = d, product.b = b, product.columns = columns, product.group = mine_too.group, product.bf16 = bf16;
  product.line = line;
  for (int half = 0; half < 2; half++)
    for (int k = 0; k < 16; k++)
      product.a[half][k] = half_of(mail[4 * g + k % 8 / 2][k / 8 * 2 + half], k % 2, bf16);
}
// Registers 4j + 2h + e of lane 4g + t are row g + 8h, column 8j + 2t + e.
inline void finish(const Product& product) {
  const int t = block.running % 4;
  for (int i = 0; i < product.columns / 2; i++) {
    const int half = i / 2 % 2, column = i / 4 * 8 + 2 * t + i % 2;
    float sum = as_float(product.d[i]);
    for (int k = 0; k < 16; k++)
      sum += product.a[half][k] * half_of(element_at(product.b, column, k, product.line), 0, product.bf16);
    product.d[i] = as_bits(sum);
  }
}
template <int N> struct WarpgroupDot {
  static void f16(uint32_t* d, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, Descriptor b, HERE) {
    const uint64_t mine[4] = {a0, a1, a2, a3};
    warpgroup_dot(d, mine, b, N, false, line);
  }
  static void bf16(uint32_t* d, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, Descriptor b, HERE) {
    const uint64_t mine[4] = {a0, a1, a2, a3};
    warpgroup_dot(d, mine, b, N, true, line);
  }
};
inline void commit_dots() { products_of(block.running).group++; }
template <int PENDING> inline void wait_dots() {
  Products& mine = products_of(block.running);
  int kept = 0;
  for (int i = 0; i < mine.count; i++) {
    if (mine.begun[i].group >= mine.group - PENDING) mine.begun[kept++] = mine.begun[i];
    else finish(mine.begun[i]);
  }
  mine.count = kept;
}
// All other warps of the block have to have come this far, as the hardware's order asks.
inline void fence_dots() {}
inline void fence_async() {}
template <int COUNT> inline void settle(uint32_t*) {}
