// Where a tile of shared memory lies, in the 64 bits that warpgroup products take (PTX ISA 9.7.15.5.1,
// "matrix descriptor"), for rows of 128 bytes under the 128-byte swizzle: groups of 8 rows follow
// each other, and steps along a row are added to the address.
#pragma once

typedef unsigned long long Descriptor;
constexpr int ROW_BYTES = 128, GROUP_ROWS = 8;
constexpr Descriptor SWIZZLE_128 = 1ull << 62;

FUNCTION Descriptor descriptor_of(uint32_t address) {
  const Descriptor start = address >> 4 & 0x3FFF, next = ROW_BYTES * GROUP_ROWS >> 4;
  return SWIZZLE_128 | next << 32 | 1ull << 16 | start;
}
// The same tile some bytes further along its rows.
FUNCTION Descriptor advanced(Descriptor from, int bytes) { return from + (bytes >> 4); }
