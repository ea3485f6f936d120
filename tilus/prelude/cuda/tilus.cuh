// What generated kernels may use, on a GPU. The host's tilus.cuh has the same functions.
// Section numbers are of the PTX ISA manual, version 9.0.
#pragma once

typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

#define FUNCTION __device__ __forceinline__
#define KERNEL(threads, blocks_per_sm) \
  extern "C" __global__ void __launch_bounds__(threads, blocks_per_sm)
#define BLOCK_VARIABLES(shared_bytes)                     \
  extern __shared__ __align__(1024) char shared[];        \
  const unsigned thread = threadIdx.x, block_x = blockIdx.x;   \
  const unsigned block_y = blockIdx.y, block_z = blockIdx.z;   \
  (void)thread, (void)block_x, (void)block_y, (void)block_z

FUNCTION float as_float(uint32_t bits) { return __uint_as_float(bits); }
FUNCTION uint32_t as_bits(float value) { return __float_as_uint(value); }
FUNCTION uint32_t funnel_right(uint32_t low, uint32_t high, int by) {
  return __funnelshift_r(low, high, by);
}
FUNCTION uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  return __byte_perm(a, b, selector);
}

// 9.7.8.9 lop3: left to itself the compiler takes two instructions where b and c are constants
FUNCTION uint32_t and_xor(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0x6A;" : "=r"(d) : "r"(a), "r"(b), "r"(c));  // (a & b) ^ c
  return d;
}

// 9.7.9.22 cvt
FUNCTION float f16_to_f32(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
FUNCTION uint16_t f32_to_f16(float value) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
FUNCTION uint32_t f16_pair(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
FUNCTION uint32_t f32_to_bf16(float value) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
template <int N> FUNCTION uint32_t round_to_unsigned(float value) {
  if constexpr (N == 32) return __float2uint_rn(value);
  else return __float2uint_rn(fminf(fmaxf(value, 0.0f), (float)((1u << N % 32) - 1)));
}
template <int N> FUNCTION uint32_t round_to_signed(float value) {
  constexpr float limit = (float)(1u << (N - 1));
  if constexpr (N == 32) return (uint32_t)__float2int_rn(value);
  else return value != value ? 0 : (uint32_t)__float2int_rn(fminf(fmaxf(value, -limit), limit - 1));
}

// 9.7.4 half-precision arithmetic, two at a time
FUNCTION uint32_t add_f16_pair(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
FUNCTION uint32_t sub_f16_pair(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
FUNCTION uint32_t mul_f16_pair(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
FUNCTION uint32_t fma_f16_pair(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
// from sm_86 on: the smaller magnitude, or the only number, with the sign of the product
FUNCTION uint32_t min_magnitude_f16_pair(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("min.xorsign.abs.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
FUNCTION uint32_t fma_bf16_pair(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

#include "bits.cuh"
#include "conversions.cuh"
#include "arithmetic.cuh"
#include "debugging.cuh"

// Moves of BYTES between memory and the registers that begin SHIFT bits into `words`; where `inside`
// is false, zeros arrive and nothing is stored.
template <int BYTES> struct Access;
template <> struct Access<1> { using type = uint8_t; };
template <> struct Access<2> { using type = uint16_t; };
template <> struct Access<4> { using type = uint32_t; };
template <> struct Access<8> { using type = uint2; };
template <> struct Access<16> { using type = uint4; };

template <int BYTES, int SHIFT> FUNCTION void load(uint32_t* words, const char* from, bool inside) {
  typename Access<BYTES>::type value = {};
  if (inside) value = *(const typename Access<BYTES>::type*)from;
  if constexpr (BYTES < 4) set_bits<SHIFT, 8 * BYTES>(words, value);
  if constexpr (BYTES == 4) words[0] = value;
  if constexpr (BYTES == 8) words[0] = value.x, words[1] = value.y;
  if constexpr (BYTES == 16)
    words[0] = value.x, words[1] = value.y, words[2] = value.z, words[3] = value.w;
}
template <int BYTES, int SHIFT> FUNCTION void store(char* to, const uint32_t* words, bool inside) {
  if (!inside) return;
  if constexpr (BYTES < 4)
    *(typename Access<BYTES>::type*)to = get_bits<SHIFT, 8 * BYTES>(words);
  if constexpr (BYTES == 4) *(uint32_t*)to = words[0];
  if constexpr (BYTES == 8) *(uint2*)to = make_uint2(words[0], words[1]);
  if constexpr (BYTES == 16) *(uint4*)to = make_uint4(words[0], words[1], words[2], words[3]);
}
template <int B, int S> FUNCTION void load_global(uint32_t* words, const char* from, bool inside) {
  load<B, S>(words, from, inside);
}
template <int B, int S> FUNCTION void load_shared(uint32_t* words, const char* from, bool inside) {
  load<B, S>(words, from, inside);
}
template <int B, int S> FUNCTION void store_global(char* to, const uint32_t* words, bool inside) {
  store<B, S>(to, words, inside);
}
template <int B, int S> FUNCTION void store_shared(char* to, const uint32_t* words, bool inside) {
  store<B, S>(to, words, inside);
}

FUNCTION uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// 9.7.9.25.3 cp.async; it exists for 4, 8 and 16 bytes
template <int BYTES> FUNCTION void copy_async(char* to, const char* from, bool inside) {
  if constexpr (BYTES == 16)
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::
                 "r"(shared_address(to)), "l"(from), "r"(inside ? 16 : 0) : "memory");
  else if constexpr (BYTES >= 4)
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::
                 "r"(shared_address(to)), "l"(from), "n"(BYTES), "r"(inside ? BYTES : 0) : "memory");
  else {
    uint32_t word = 0;
    load<BYTES, 0>(&word, from, inside);
    store<BYTES, 0>(to, &word, true);
  }
}
FUNCTION void commit_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> FUNCTION void wait_group() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// 9.7.14.5.15 ldmatrix
template <int COUNT> FUNCTION void load_matrix(uint32_t* words, const char* row) {
  const uint32_t from = shared_address(row);
  if constexpr (COUNT == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(from) : "memory");
  if constexpr (COUNT == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(words[0]), "=r"(words[1]) : "r"(from) : "memory");
  if constexpr (COUNT == 1)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(words[0]) : "r"(from) : "memory");
}

template <int COUNT> FUNCTION void load_matrix_transposed(uint32_t* words, const char* row) {
  const uint32_t from = shared_address(row);
  if constexpr (COUNT == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(from) : "memory");
  if constexpr (COUNT == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(words[0]), "=r"(words[1]) : "r"(from) : "memory");
  if constexpr (COUNT == 1)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(words[0]) : "r"(from) : "memory");
}

// 9.7.14.5.8 mma.m16n8k16, the accumulator in place
#define MMA_M16N8K16(name, type)                                                                \
  FUNCTION void name(uint32_t* d, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,           \
                     uint32_t b0, uint32_t b1) {                                                \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                                  \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                  \
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                        \
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));                                \
  }
MMA_M16N8K16(mma_m16n8k16_f16, "f16")
MMA_M16N8K16(mma_m16n8k16_bf16, "bf16")

#include "mma.cuh"
#include "warpgroup.cuh"

// The lanes of this thread's warp that exist in a block of THREADS.
template <int THREADS> FUNCTION uint32_t lanes() {
  if (THREADS % 32 == 0 || threadIdx.x < THREADS / 32 * 32) return ~0u;
  return (1u << THREADS % 32) - 1;
}
// 9.7.9.6 shfl.sync: the value of the lane whose number differs in the bits of MASK
template <int MASK, int THREADS, class V> FUNCTION V shuffle_xor(V value) {
  return __shfl_xor_sync(lanes<THREADS>(), value, MASK);
}
// The value of another lane of the warp.
template <int THREADS> FUNCTION uint32_t shuffle(uint32_t value, int lane) {
  return __shfl_sync(lanes<THREADS>(), value, lane);
}

FUNCTION void synchronize() { __syncthreads(); }
// 9.7.13.1 bar, by its number
template <int NAME, int THREADS> FUNCTION void synchronize_group() {
  asm volatile("bar.sync %0, %1;" ::"n"(NAME), "n"(THREADS) : "memory");
}
template <int NAME, int THREADS> FUNCTION void meet() {
  if constexpr (NAME == 0) __syncthreads();
  else synchronize_group<NAME, THREADS>();
}
FUNCTION unsigned block_thread() { return threadIdx.x; }
// The number of this thread's warp in a block of THREADS: known to be the same in all of its lanes.
template <int THREADS> FUNCTION unsigned block_warp() {
  return shuffle<THREADS>(threadIdx.x / 32, 0);
}

// Thread 0 acts for the block, or the group that meets at barrier NAME, and all get what it gives.
template <int NAME, int THREADS, class Action>
FUNCTION int once(unsigned thread, int* mailbox, const Action& action) {
  meet<NAME, THREADS>();
  if (thread == 0) *mailbox = action();
  meet<NAME, THREADS>();
  return *mailbox;
}
// The fences and barriers make what the block wrote visible to who sees the new number, and what
// others wrote visible to the block (8.10, causality order).
#define ATOMIC(name, call, ...)                                                               \
  template <int NAME, int THREADS>                                                            \
  FUNCTION int name(unsigned thread, int* where, __VA_ARGS__, int* mailbox) {                 \
    return once<NAME, THREADS>(thread, mailbox, [=] {                                         \
      __threadfence();                                                                        \
      const int there = call;                                                                 \
      __threadfence();                                                                        \
      return there;                                                                           \
    });                                                                                       \
  }
ATOMIC(atomic_add, atomicAdd(where, value), int value)
ATOMIC(atomic_max, atomicMax(where, value), int value)
ATOMIC(atomic_min, atomicMin(where, value), int value)
ATOMIC(atomic_exchange, atomicExch(where, value), int value)
ATOMIC(atomic_and, atomicAnd(where, value), int value)
ATOMIC(atomic_or, atomicOr(where, value), int value)
ATOMIC(atomic_xor, atomicXor(where, value), int value)
ATOMIC(atomic_compare_exchange, atomicCAS(where, expected, value), int expected, int value)

// 9.7.9.8 ld.acquire, 9.7.9.12 st.release
template <int NAME, int THREADS>
FUNCTION int load_acquire(unsigned thread, const int* where, int* mailbox) {
  return once<NAME, THREADS>(thread, mailbox, [=] {
    int there;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(there) : "l"(where) : "memory");
    return there;
  });
}
template <int NAME, int THREADS>
FUNCTION void store_release(unsigned thread, int* where, int value) {
  meet<NAME, THREADS>();
  if (thread == 0)
    asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(where), "r"(value) : "memory");
}

FUNCTION void assert_that(bool condition, const char* message, bool speaks) {
  if (condition) return;
  if (speaks) printf("assert_: %s\n", message);
  __trap();
}

#include "hopper.cuh"
