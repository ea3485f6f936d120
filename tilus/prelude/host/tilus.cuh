// What generated kernels may use, on the host: the GPU's tilus.cuh has the same functions.
// It tells whether a kernel computes the right thing, never how fast.
//
// A thread is a fiber. The fibers of a block run one after another, each until it has to wait for
// others, in an order that the caller chooses; so what one thread may not yet have written when
// another reads it is really not there. Asynchronous copies happen when they are waited for, and
// fresh shared memory is garbage.
//
// Only the C library is used, so that any C++17 compiler will do.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define FUNCTION inline
#define KERNEL(threads, blocks_per_sm) static void
#define BLOCK_VARIABLES(shared_bytes)                                              \
  char* const shared = block.shared;                                               \
  const unsigned thread = block.running, block_x = block.x, block_y = block.y, block_z = block.z; \
  (void)shared, (void)thread, (void)block_x, (void)block_y, (void)block_z

template <class T> inline T min(T a, T b) { return b < a ? b : a; }
template <class T> inline T max(T a, T b) { return a < b ? b : a; }

#include "watch.cuh"

struct Copy {
  char* to;
  const char* from;
  int bytes, group;
  bool inside;
  int line;
  const char* barrier;  // that it reports to, if any
};

struct Copies {
  Copy* copies;  // oldest first
  int count, room;
};

struct Barrier {
  int arrived, turn;
};

struct Fiber {
  ucontext_t where;
  bool done;
  Copies started;  // and not waited for
  int group;
  int parity;  // which of its warp's mailboxes the next exchange takes
};

constexpr int MOST_THREADS = 1024, STACK = 256 << 10, WARP = 32, MAIL = 6;

struct Block {
  int x, y, z, threads, running, progress;
  char* shared;
  char* stacks;
  Fiber fibers[MOST_THREADS];
  Copies bulk;  // that report to barriers
  Barrier all, warps[MOST_THREADS / WARP];
  uint64_t mail[MOST_THREADS / WARP][2][WARP][MAIL];
  ucontext_t scheduler;
  void (*kernel)(void**);
  void** arguments;
};
static Block block;

inline void wait_at(Barrier& barrier, int expected) {
  const int turn = barrier.turn, me = block.running;
  if (++barrier.arrived == expected) {
    barrier.arrived = 0, barrier.turn++, block.progress++;
    return;
  }
  while (barrier.turn == turn) swapcontext(&block.fibers[me].where, &block.scheduler);
}
inline void synchronize() {
  const int parity = block.all.turn % 2;
  release(watch.all[parity], block.running);
  wait_at(block.all, block.threads);
  acquire(watch.all[parity], block.running);
}

// Every lane posts some numbers and sees those of all: one barrier an exchange, since the next one
// takes the other mailbox.
inline uint64_t (*exchange(const uint64_t* numbers, int count))[MAIL] {
  const int warp = block.running / WARP, lane = block.running % WARP;
  Fiber& me = block.fibers[block.running];
  auto& mail = block.mail[warp][me.parity];
  me.parity ^= 1;
  for (int i = 0; i < count; i++) mail[lane][i] = numbers[i];
  wait_at(block.warps[warp], WARP);
  return mail;
}

inline float as_float(uint32_t bits) { float value; memcpy(&value, &bits, 4); return value; }
inline uint32_t as_bits(float value) { uint32_t bits; memcpy(&bits, &value, 4); return bits; }
inline uint32_t funnel_right(uint32_t low, uint32_t high, int by) {
  return (uint32_t)(((uint64_t)high << 32 | low) >> by);
}
inline uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = (uint64_t)b << 32 | a;
  uint32_t word = 0;
  for (int i = 0; i < 4; i++) word |= (uint32_t)(bytes >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
  return word;
}
inline uint32_t and_xor(uint32_t a, uint32_t b, uint32_t c) { return (a & b) ^ c; }
inline float f16_to_f32(uint16_t bits) { _Float16 value; memcpy(&value, &bits, 2); return (float)value; }
inline uint16_t f32_to_f16(float value) {
  const _Float16 half = (_Float16)value;
  uint16_t bits;
  memcpy(&bits, &half, 2);
  return bits;
}
inline uint32_t f16_pair(float low, float high) { return f32_to_f16(low) | (uint32_t)f32_to_f16(high) << 16; }
inline uint32_t f32_to_bf16(float value) {
  const uint32_t bits = as_bits(value);
  if (value != value) return bits >> 16 | 0x40;
  return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;  // ties go to the even half
}
template <int N> inline uint32_t round_to_unsigned(float value) {
  const double limit = (double)((1ull << N) - 1);
  return value != value ? 0 : (uint32_t)fmin(fmax(nearbyint((double)value), 0), limit);
}
template <int N> inline uint32_t round_to_signed(float value) {
  const double limit = (double)(1ull << (N - 1));
  return value != value ? 0 : (uint32_t)(int64_t)fmin(fmax(nearbyint((double)value), -limit), limit - 1);
}

#define F16_PAIR(...)                                                              \
  {                                                                                \
    uint32_t d = 0;                                                                \
    for (int half = 0; half < 32; half += 16) {                                    \
      const float x = f16_to_f32((uint16_t)(a >> half)), y = f16_to_f32((uint16_t)(b >> half)); \
      d |= (uint32_t)f32_to_f16(__VA_ARGS__) << half;                              \
    }                                                                              \
    return d;                                                                      \
  }
inline uint32_t add_f16_pair(uint32_t a, uint32_t b) F16_PAIR(x + y)
inline uint32_t sub_f16_pair(uint32_t a, uint32_t b) F16_PAIR(x - y)
inline uint32_t mul_f16_pair(uint32_t a, uint32_t b) F16_PAIR(x * y)
// a double holds the product and, for the operands of a cast, the sum exactly: one rounding
inline uint32_t fma_bf16_pair(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d = 0;
  for (int half = 0; half < 32; half += 16) {
    const double x = as_float(a >> half << 16), y = as_float(b >> half << 16);
    d |= f32_to_bf16((float)(x * y + as_float(c >> half << 16))) << half;
  }
  return d;
}

#include "bits.cuh"

template <int BYTES, int SHIFT> inline void load(uint32_t* words, const char* from, bool inside, int line) {
  uint32_t value[4] = {};
  if (inside && touch(from, BYTES, READS, block.running, line)) memcpy(value, from, BYTES);
  if constexpr (BYTES < 4) set_bits<SHIFT, 8 * BYTES>(words, value[0]);
  else memcpy(words, value, BYTES);
}
template <int BYTES, int SHIFT> inline void store(char* to, const uint32_t* words, bool inside, int line) {
  if (!inside || !touch(to, BYTES, WRITES, block.running, line)) return;
  if constexpr (BYTES < 4) {
    const uint32_t value = get_bits<SHIFT, 8 * BYTES>(words);
    memcpy(to, &value, BYTES);
  } else memcpy(to, words, BYTES);
}
template <int B, int S> inline void load_global(uint32_t* words, const char* from, bool inside, HERE) {
  load<B, S>(words, from, inside, line);
}
template <int B, int S> inline void load_shared(uint32_t* words, const char* from, bool inside, HERE) {
  load<B, S>(words, from, inside, line);
}
template <int B, int S> inline void store_global(char* to, const uint32_t* words, bool inside, HERE) {
  store<B, S>(to, words, inside, line);
}
template <int B, int S> inline void store_shared(char* to, const uint32_t* words, bool inside, HERE) {
  store<B, S>(to, words, inside, line);
}

inline void add(Copies& to, const Copy& copy) {
  if (to.count == to.room) {
    to.room = to.room ? 2 * to.room : 64;
    to.copies = (Copy*)realloc(to.copies, to.room * sizeof(Copy));
  }
  to.copies[to.count++] = copy;
}
inline void perform(const Copy& copy) {
  if (copy.inside) memcpy(copy.to, copy.from, copy.bytes);
  else memset(copy.to, 0, copy.bytes);
}
template <int BYTES> inline void copy_async(char* to, const char* from, bool inside, HERE) {
  Fiber& me = block.fibers[block.running];
  inside = inside && touch(from, BYTES, READS, block.running, line);
  if (copy_starts(to, BYTES, block.running, line)) add(me.started, {to, from, BYTES, me.group, inside, line});
}
inline void commit_group() { block.fibers[block.running].group++; }
template <int PENDING> inline void wait_group() {
  Fiber& me = block.fibers[block.running];
  int kept = 0;
  for (int i = 0; i < me.started.count; i++) {
    const Copy copy = me.started.copies[i];
    if (copy.group >= me.group - PENDING) {
      me.started.copies[kept++] = copy;
      continue;
    }
    copy_ends(copy.to, copy.bytes, block.running, copy.line);
    perform(copy);
  }
  me.started.count = kept;
}

// Lane 8j + i gives the address of row i of matrix j; lane l gets elements 2(l % 4), 2(l % 4) + 1 of
// row l / 4 of each.
template <int COUNT> inline void load_matrix(uint32_t* words, const char* row, HERE) {
  const int lane = block.running % WARP;
  const uint64_t mine = (uint64_t)row;
  auto mail = exchange(&mine, 1);
  for (int j = 0; j < COUNT; j++) {
    const char* from = (const char*)mail[8 * j + lane / 4][0] + lane % 4 * 4;
    if (touch(from, 4, READS, block.running, line)) memcpy(words + j, from, 4);
  }
}

inline float half_of(uint64_t word, int i, bool bf16) {
  const uint16_t bits = (uint16_t)(word >> 16 * i);
  return bf16 ? as_float((uint32_t)bits << 16) : f16_to_f32(bits);
}
// Lane 4g + t holds rows g and g + 8 of A, columns 2t.. and 2t + 8..; rows 2t.. and 2t + 8.. of
// column g of B; rows g and g + 8, columns 2t and 2t + 1 of D.
inline void mma_m16n8k16(uint32_t* d, const uint64_t* mine, bool bf16) {
  const int lane = block.running % WARP, g = lane / 4, t = lane % 4;
  auto mail = exchange(mine, 6);
  for (int i = 0; i < 4; i++) {
    float sum = as_float(d[i]);
    const int row = i / 2, column = 2 * t + i % 2;
    for (int k = 0; k < 16; k++) {
      const uint64_t a = mail[4 * g + k % 8 / 2][row + k / 8 * 2];
      const uint64_t b = mail[4 * column + k % 8 / 2][4 + k / 8];
      sum += half_of(a, k % 2, bf16) * half_of(b, k % 2, bf16);
    }
    d[i] = as_bits(sum);
  }
}
#define MMA_M16N8K16(name, bf16)                                                         \
  inline void name(uint32_t* d, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,      \
                   uint32_t b0, uint32_t b1) {                                           \
    const uint64_t mine[6] = {a0, a1, a2, a3, b0, b1};                                   \
    mma_m16n8k16(d, mine, bf16);                                                         \
  }
MMA_M16N8K16(mma_m16n8k16_f16, false)
MMA_M16N8K16(mma_m16n8k16_bf16, true)

#include "warpgroup.cuh"

inline int atomic_add(int* where, int value, int* mailbox) {
  synchronize();
  if (block.running == 0) meet(where), *mailbox = *where, *where += value;
  synchronize();
  return *mailbox;
}

#include "hopper.cuh"

inline void fiber_main() {
  block.kernel(block.arguments);
  block.fibers[block.running].done = true;
  block.progress++;
}

// Run every block of a grid; 0 if all ended, 1 if threads waited for each other for ever. In a
// block the threads take turns upwards, or downwards if `backwards`. Where `sizes` says how many
// bytes each of the `count` arguments points at, accesses are watched.
inline int launch(void (*kernel)(void**), void** arguments, const int* grid, int threads,
                  int shared_bytes, int backwards, const int64_t* sizes, int count) {
  block.kernel = kernel, block.arguments = arguments, block.threads = threads;
  block.shared = (char*)aligned_alloc(1024, (shared_bytes / 1024 + 1) * 1024);
  block.stacks = (char*)mmap(nullptr, (size_t)threads * STACK, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  watch_launch(grid[0] * grid[1] * grid[2], threads, sizes, arguments, count);
  int stuck = 0;
  for (int i = 0; i < grid[0] * grid[1] * grid[2] && !stuck; i++) {
    block.x = i % grid[0], block.y = i / grid[0] % grid[1], block.z = i / grid[0] / grid[1];
    memset(block.shared, 0xFF, shared_bytes);
    watch_block(i, block.shared, shared_bytes);
    block.all = {}, block.bulk.count = 0;
    for (auto& warp : block.warps) warp = {};
    for (int t = 0; t < threads; t++) {
      Fiber& fiber = block.fibers[t];
      fiber.done = false, fiber.started.count = fiber.group = fiber.parity = 0;
      products[t].count = products[t].group = 0;
      getcontext(&fiber.where);
      fiber.where.uc_stack.ss_sp = block.stacks + (size_t)t * STACK;
      fiber.where.uc_stack.ss_size = STACK;
      fiber.where.uc_link = &block.scheduler;
      makecontext(&fiber.where, fiber_main, 0);
    }
    for (int alive = threads; alive && !stuck;) {
      const int before = block.progress;
      for (int turn = 0; turn < threads; turn++) {
        block.running = backwards ? threads - 1 - turn : turn;
        Fiber& fiber = block.fibers[block.running];
        if (fiber.done) continue;
        swapcontext(&block.scheduler, &fiber.where);
        alive -= fiber.done;
      }
      stuck = alive && block.progress == before;
    }
  }
  watch_ends();
  munmap(block.stacks, (size_t)threads * STACK);
  free(block.shared);
  return stuck;
}
