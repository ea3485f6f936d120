// What generated kernels may use, on the host: the GPU's tilus.cuh has the same functions.
// It tells whether a kernel computes the right thing, never how fast.
//
// A thread is a fiber. The fibers of a block run one after another, each until it has to wait for
// others, in an order that the caller chooses; so what one thread may not yet have written when
// another reads it is really not there. Asynchronous copies happen when they are waited for, and
// fresh shared memory is garbage. The blocks of a cluster take turns too; clusters run one by one.
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
#define CLUSTER(x, y, z)
#define BLOCK_VARIABLES(shared_bytes)                                              \
  char* const shared = block.shared;                                               \
  const unsigned thread = block.running, block_x = block.x, block_y = block.y, block_z = block.z; \
  (void)shared, (void)thread, (void)block_x, (void)block_y, (void)block_z

template <class T> inline T min(T a, T b) { return b < a ? b : a; }
template <class T> inline T max(T a, T b) { return a < b ? b : a; }
inline float min(float a, float b) { return fminf(a, b); }  // the number, where the other is NaN
inline float max(float a, float b) { return fmaxf(a, b); }
inline float rsqrtf(float a) { return 1 / sqrtf(a); }

#include "watch.cuh"

struct Copy {
  char* to;
  const char* from;
  int bytes, group;
  bool inside;
  const char* barrier;  // that it reports to, if any
  int line;
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
  Copies started, stores;  // and not waited for
  int group, store_group;
  int parity;  // which of its warp's mailboxes the next exchange takes
};

constexpr int MOST_CLUSTER = 8, MOST_THREADS = 1024, STACK = 256 << 10, WARP = 32, MAIL = 6;

struct Block {
  int x, y, z, rank, threads, running;
  char* shared;
  char* stacks;
  Fiber fibers[MOST_THREADS];
  Copies bulk;  // that report to barriers
  Barrier all, named[16], warps[MOST_THREADS / WARP];
  uint64_t mail[MOST_THREADS / WARP][2][WARP][MAIL];
  ucontext_t scheduler;
  void (*kernel)(void**);
  void** arguments;
};
static Block blocks[MOST_CLUSTER], *current = blocks;  // of a cluster; the one that runs
static Barrier meeting;                                // of all threads of a cluster
static int in_cluster, progress;                       // blocks; what happened that some may wait for
#define block (*current)

inline void wait_at(Barrier& barrier, int expected) {
  const int turn = barrier.turn, me = block.running;
  if (++barrier.arrived == expected) {
    barrier.arrived = 0, barrier.turn++, progress++;
    return;
  }
  while (barrier.turn == turn) swapcontext(&block.fibers[me].where, &block.scheduler);
}
inline int thread_of_cluster() { return block.rank * block.threads + block.running; }
// The same, and all see what the others did before.
inline void meet_at(Barrier& barrier, int expected) {
  const int turn = barrier.turn;
  release(&barrier, turn, thread_of_cluster());
  wait_at(barrier, expected);
  acquire(&barrier, turn, thread_of_cluster());
}
inline bool touch(const void* from, int bytes, Action action, int line) {
  return touch(from, bytes, action, thread_of_cluster(), line);
}
inline void synchronize() { meet_at(block.all, block.threads); }
template <int NAME, int THREADS> inline void synchronize_group() {
  meet_at(block.named[NAME], THREADS);
}
inline unsigned block_thread() { return block.running; }
template <int THREADS> inline unsigned block_warp() { return block.running / WARP; }

// Every lane posts some numbers and sees those of all: one barrier an exchange, since the next one
// takes the other mailbox.
inline uint64_t (*exchange(const uint64_t* numbers, int count))[MAIL] {
  const int warp = block.running / WARP, lane = block.running % WARP;
  Fiber& me = block.fibers[block.running];
  auto& mail = block.mail[warp][me.parity];
  me.parity ^= 1;
  for (int i = 0; i < count; i++) mail[lane][i] = numbers[i];
  wait_at(block.warps[warp], min(WARP, block.threads - warp * WARP));
  return mail;
}
// The value of the lane whose number differs in the bits of MASK, in a block of THREADS.
template <int MASK, int THREADS, class V> inline V shuffle_xor(V value) {
  uint64_t bits = 0;
  memcpy(&bits, &value, 4);
  memcpy(&value, &exchange(&bits, 1)[(block.running % WARP) ^ MASK][0], 4);
  return value;
}

template <int THREADS> inline uint32_t shuffle(uint32_t value, int lane) {
  const uint64_t bits = value;
  return (uint32_t)exchange(&bits, 1)[lane][0];
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
inline uint32_t fma_f16_pair(uint32_t a, uint32_t b, uint32_t c)
    F16_PAIR(fmaf(x, y, f16_to_f32((uint16_t)(c >> half))))
inline uint32_t min_magnitude_f16_pair(uint32_t a, uint32_t b) {
  uint32_t d = (a ^ b) & 0x80008000;
  for (int half = 0; half < 32; half += 16) {
    const uint32_t x = a >> half & 0x7FFF, y = b >> half & 0x7FFF, nan = 0x7C00;
    d |= (x > nan ? y : y > nan || x < y ? x : y) << half;
  }
  return d;
}
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
#include "conversions.cuh"
#include "arithmetic.cuh"
#include "debugging.cuh"

template <int BYTES, int SHIFT> inline void load(uint32_t* words, const char* from, bool inside, int line) {
  uint32_t value[4] = {};
  if (inside && touch(from, BYTES, READS, line)) memcpy(value, from, BYTES);
  if constexpr (BYTES < 4) set_bits<SHIFT, 8 * BYTES>(words, value[0]);
  else memcpy(words, value, BYTES);
}
template <int BYTES, int SHIFT> inline void store(char* to, const uint32_t* words, bool inside, int line) {
  if (!inside || !touch(to, BYTES, WRITES, line)) return;
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
  inside = inside && touch(from, BYTES, READS, line);
  if (copy_starts(to, BYTES, thread_of_cluster(), line))
    add(me.started, {to, from, BYTES, me.group, inside, nullptr, line});
}
inline void commit_group() { block.fibers[block.running].group++; }
// Those of groups before `group` happen.
inline void perform_before(Copies& all, int group) {
  int kept = 0;
  for (int i = 0; i < all.count; i++) {
    const Copy copy = all.copies[i];
    if (copy.group >= group) {
      all.copies[kept++] = copy;
      continue;
    }
    copy_ends(copy.to, copy.bytes, thread_of_cluster(), copy.line);
    perform(copy);
  }
  all.count = kept;
}
template <int PENDING> inline void wait_group() {
  Fiber& me = block.fibers[block.running];
  perform_before(me.started, me.group - PENDING);
}

// Lane 8j + i gives the address of row i of matrix j; lane l gets elements 2(l % 4), 2(l % 4) + 1 of
// row l / 4 of each.
template <int COUNT> inline void load_matrix(uint32_t* words, const char* row, HERE) {
  const int lane = block.running % WARP;
  const uint64_t mine = (uint64_t)row;
  auto mail = exchange(&mine, 1);
  for (int j = 0; j < COUNT; j++) {
    const char* from = (const char*)mail[8 * j + lane / 4][0] + lane % 4 * 4;
    if (touch(from, 4, READS, line)) memcpy(words + j, from, 4);
  }
}

template <int COUNT> inline void load_matrix_transposed(uint32_t* words, const char* row, HERE) {
  const int lane = block.running % WARP;
  const uint64_t mine = (uint64_t)row;
  auto mail = exchange(&mine, 1);
  for (int j = 0; j < COUNT; j++)
    for (int i = 0; i < 2; i++) {
      const char* from = (const char*)mail[8 * j + lane % 4 * 2 + i][0] + lane / 4 * 2;
      if (touch(from, 2, READS, line)) memcpy((char*)(words + j) + 2 * i, from, 2);
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

#include "mma.cuh"
#include "warpgroup.cuh"

inline void meet_others(const int* where) {
  observe(where, thread_of_cluster()), publish(where, thread_of_cluster());
}
template <int NAME, int THREADS> inline void meet() {
  if constexpr (NAME == 0) synchronize();
  else synchronize_group<NAME, THREADS>();
}
template <int NAME, int THREADS, class Action>
inline int once(unsigned thread, int* mailbox, const Action& action) {
  meet<NAME, THREADS>();
  if (thread == 0) *mailbox = action();
  meet<NAME, THREADS>();
  return *mailbox;
}
#define ATOMIC(name, update, ...)                                             \
  template <int NAME, int THREADS>                                            \
  inline int name(unsigned thread, int* where, __VA_ARGS__, int* mailbox) {   \
    return once<NAME, THREADS>(thread, mailbox, [=] {                         \
      meet_others(where);                                                     \
      const int there = *where;                                               \
      *where = update;                                                        \
      return there;                                                           \
    });                                                                       \
  }
ATOMIC(atomic_add, there + value, int value)
ATOMIC(atomic_max, max(there, value), int value)
ATOMIC(atomic_min, min(there, value), int value)
ATOMIC(atomic_exchange, value, int value)
ATOMIC(atomic_and, there & value, int value)
ATOMIC(atomic_or, there | value, int value)
ATOMIC(atomic_xor, there ^ value, int value)
ATOMIC(atomic_compare_exchange, there == expected ? value : there, int expected, int value)

template <int NAME, int THREADS>
inline int load_acquire(unsigned thread, const int* where, int* mailbox) {
  return once<NAME, THREADS>(thread, mailbox, [=] {
    observe(where, thread_of_cluster());
    return *where;
  });
}
template <int NAME, int THREADS> inline void store_release(unsigned thread, int* where, int value) {
  meet<NAME, THREADS>();
  if (thread == 0) publish(where, thread_of_cluster()), *where = value;
}

// The message of the assertion that failed, if one did.
static const char* failed;
extern "C" const char* failure() { return failed; }
inline void assert_that(bool condition, const char* message, bool) {
  if (condition) return;
  failed = message;
  for (;;) swapcontext(&block.fibers[block.running].where, &block.scheduler);  // never goes on
}

#include "hopper.cuh"

inline void fiber_main() {
  block.kernel(block.arguments);
  block.fibers[block.running].done = true;
  progress++;
}

// The block that runs is number `rank` of its cluster, and nothing has happened in it.
inline void begin(int rank, int shared_bytes) {
  block.rank = rank;
  memset(block.shared, 0xFF, shared_bytes);
  watch_block(rank, block.shared, shared_bytes);
  block.all = {}, block.bulk.count = 0;
  for (auto& barrier : block.named) barrier = {};
  for (auto& warp : block.warps) warp = {};
  for (int t = 0; t < block.threads; t++) {
    Fiber& fiber = block.fibers[t];
    fiber.done = false, fiber.started.count = fiber.group = fiber.parity = 0;
    fiber.stores.count = fiber.store_group = 0;
    products_of(t).count = products_of(t).group = 0;
    getcontext(&fiber.where);
    fiber.where.uc_stack.ss_sp = block.stacks + (size_t)t * STACK;
    fiber.where.uc_stack.ss_size = STACK;
    fiber.where.uc_link = &block.scheduler;
    makecontext(&fiber.where, fiber_main, 0);
  }
}
// Each thread of the block that runs goes on until it has to wait; how many came to their end.
inline int turn(bool backwards) {
  int ended = 0;
  for (int i = 0; i < block.threads; i++) {
    block.running = backwards ? block.threads - 1 - i : i;
    Fiber& fiber = block.fibers[block.running];
    if (fiber.done) continue;
    swapcontext(&block.scheduler, &fiber.where);
    ended += fiber.done;
  }
  return ended;
}

struct Extent { int x, y, z; };

// Run every block of a grid; 0 if all ended, 1 if an assertion failed or threads waited for each
// other for ever. In a block the threads take turns upwards, or downwards if `backwards`, and so do
// a cluster's blocks. Where `sizes` says how many bytes each of the `count` arguments points at,
// accesses are watched.
inline int launch(void (*kernel)(void**), void** arguments, const int* grid, int threads,
                  int shared_bytes, int backwards, Extent cluster, const int64_t* sizes, int count) {
  failed = nullptr;
  in_cluster = cluster.x * cluster.y * cluster.z;
  products = (Products*)calloc((size_t)in_cluster * threads, sizeof(Products));
  const size_t stack_bytes = (size_t)threads * STACK;
  for (current = blocks; current < blocks + in_cluster; current++) {
    block.kernel = kernel, block.arguments = arguments, block.threads = threads;
    block.shared = (char*)aligned_alloc(1024, (shared_bytes / 1024 + 1) * 1024);
    block.stacks = (char*)mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  int stuck = 0;
  const int x = grid[0] / cluster.x, y = grid[1] / cluster.y, z = grid[2] / cluster.z;
  watch_launch(x * y * z, in_cluster, threads, sizes, arguments, count);
  for (int i = 0; i < x * y * z && !stuck; i++) {
    meeting = {};
    watch_cluster(i);
    for (int rank = 0; rank < in_cluster; rank++) {
      current = blocks + rank;
      block.x = i % x * cluster.x + rank % cluster.x;
      block.y = i / x % y * cluster.y + rank / cluster.x % cluster.y;
      block.z = i / x / y * cluster.z + rank / cluster.x / cluster.y;
      begin(rank, shared_bytes);
    }
    for (int alive = in_cluster * threads; alive && !stuck;) {
      const int before = progress;
      for (int b = 0; b < in_cluster; b++) {
        current = blocks + (backwards ? in_cluster - 1 - b : b);
        alive -= turn(backwards);
      }
      stuck = alive && progress == before;
    }
  }
  for (current = blocks; current < blocks + in_cluster; current++)
    munmap(block.stacks, stack_bytes), free(block.shared);
  free(products), watch_ends();
  return stuck;
}
