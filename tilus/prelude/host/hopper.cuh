// Hopper's barriers and bulk copies, on the host. A copy happens when a thread waits for its
// barrier and would have to stop, so that one that forgets to wait reads garbage.

inline void synchronize_cluster() { meet_at(meeting, in_cluster * block.threads); }
// The same place in the shared memory of block `rank` of the cluster.
inline char* peer_place(char* place, unsigned rank) {
  return blocks[rank].shared + (place - block.shared);
}

// What a barrier counts, in its 64 bits. Fresh shared memory is all ones: nobody gets through.
struct CountingBarrier {
  uint64_t broken : 1, phase : 1, arrivals : 20, pending : 20;
  int64_t bytes : 22;
};

inline CountingBarrier& counting(char* barrier) { return *(CountingBarrier*)barrier; }
inline void count_bytes(char* barrier, int bytes) {
  auto& b = counting(barrier);
  b.bytes += bytes;
  if (!b.pending && !b.bytes) b.phase ^= 1, b.pending = b.arrivals, progress++;
}
inline void arrive_once(char* barrier, int bytes) {
  auto& b = counting(barrier);
  progress++;
  if (b.pending) b.pending--, count_bytes(barrier, bytes);
  else b.broken = 1;  // more arrive than it was made for
}

template <int COUNT> inline void init_barriers(char* barriers, int arrivals) {
  for (int i = 0; i < COUNT && block.running == 0; i++)
    counting(barriers + 8 * i) = {0, 0, (uint64_t)arrivals, (uint64_t)arrivals, 0};
  synchronize();
}
inline void arrive(char* barrier) {
  release(barrier, counting(barrier).phase, thread_of_cluster());
  const int warp = block.running / WARP, rest = block.threads - warp * WARP;
  wait_at(block.warps[warp], rest < WARP ? rest : WARP);
  if (block.running % WARP == 0) arrive_once(barrier, 0);
}
inline void arrive_peer(char* barrier, unsigned rank) { arrive(peer_place(barrier, rank)); }
inline void expect(char* barrier, int bytes) {
  release(barrier, counting(barrier).phase, thread_of_cluster());
  arrive_once(barrier, bytes);
}

// The copies that report to `barrier` happen.
inline void deliver(const char* barrier) {
  const int engine = in_cluster * block.threads + block.rank;
  int kept = 0, bytes = 0;
  for (int i = 0; i < block.bulk.count; i++) {
    const Copy copy = block.bulk.copies[i];
    if (copy.barrier != barrier) block.bulk.copies[kept++] = copy;
    else {
      engine_writes(copy.to, copy.bytes, engine, copy.line);
      perform(copy), bytes += copy.bytes;
    }
  }
  block.bulk.count = kept;
  if (bytes) release(barrier, counting((char*)barrier).phase, engine);
  if (bytes) count_bytes((char*)barrier, -bytes);
}
inline bool closed(char* barrier, unsigned parity) {
  const auto& b = counting(barrier);
  return b.broken || b.phase == parity;
}
inline void wait_barrier(char* barrier, unsigned parity) {
  const int me = block.running;
  if (closed(barrier, parity)) deliver(barrier);
  while (closed(barrier, parity)) {
    swapcontext(&block.fibers[me].where, &block.scheduler);
    if (closed(barrier, parity)) deliver(barrier);
  }
  acquire(barrier, parity, thread_of_cluster());
}

enum Cache { NORMAL, EVICT_FIRST, EVICT_LAST };
template <Cache> inline void copy_bulk(char* to, const char* from, int bytes, char* barrier, HERE) {
  if ((uintptr_t)to % 16 || (uintptr_t)from % 16 || bytes % 16) abort();
  const bool inside = touch(from, bytes, READS, line);
  if (copy_starts(to, bytes, thread_of_cluster(), line))
    add(block.bulk, {to, from, bytes, 0, inside, barrier, line});
  progress++;
}

template <int REGISTERS, int BUDGET> inline void set_registers() {}

// How the copy engine finds boxes in a tensor; sizes in elements, the last dimension last.
constexpr int MOST_RANK = 5;
struct TensorMap {
  char* base;
  int rank, bytes, swizzle;
  int64_t shape[MOST_RANK], strides[MOST_RANK], box[MOST_RANK];
};
#define TENSOR_MAP const TensorMap

// Element number `k` of the box at `at` (the last dimension first): where it is in global memory,
// and whether it is inside of the tensor.
inline char* element_of(const TensorMap& map, const int* at, int k, bool& inside) {
  int64_t offset = 0;
  inside = true;
  for (int d = map.rank - 1; d >= 0; k /= map.box[d], d--) {
    const int64_t i = at[map.rank - 1 - d] + k % map.box[d];
    inside = inside && i >= 0 && i < map.shape[d];
    offset += i * map.strides[d];
  }
  return map.base + offset * map.bytes;
}
// The copy engine swizzles addresses: parts of 16 bytes change places in each line of 128.
inline char* swizzled(const TensorMap& map, const char* first, int k) {
  const int at = (int)(first - block.shared) + k * map.bytes, parts = map.swizzle ? map.swizzle / 16 : 1;
  return block.shared + (at ^ (at >> 7 & (parts - 1)) << 4);
}
inline int elements_of(const TensorMap& map) {
  int count = 1;
  for (int d = 0; d < map.rank; d++) count *= map.box[d];
  return count;
}
// To the same place, and the same barrier, of each block in the mask.
template <int PEERS, class... Index>
inline void copy_tensor_to(char* to, const TensorMap& map, char* barrier, Index... index) {
  const int at[] = {index...};
  bool inside;
  for (int peer = 0; peer < in_cluster; peer++)
    for (int k = 0; k < elements_of(map) && PEERS >> peer & 1; k++) {
      const char* from = element_of(map, at, k, inside);
      char* const there = peer_place(swizzled(map, to, k), peer);
      inside = inside && touch(from, map.bytes, READS, 0);
      if (copy_starts(there, map.bytes, thread_of_cluster(), 0))
        add(blocks[peer].bulk, {there, from, map.bytes, 0, inside, peer_place(barrier, peer)});
    }
  progress++;
}
template <class... Index>
inline void copy_tensor(char* to, const TensorMap& map, char* barrier, Index... index) {
  const int at[] = {index...};
  bool inside;
  for (int k = 0; k < elements_of(map); k++) {
    const char* from = element_of(map, at, k, inside);
    inside = inside && touch(from, map.bytes, READS, 0);
    char* const there = swizzled(map, to, k);
    if (copy_starts(there, map.bytes, thread_of_cluster(), 0))
      add(block.bulk, {there, from, map.bytes, 0, inside, barrier});
  }
  progress++;
}
template <class... Index>
inline void store_tensor(const TensorMap& map, const char* from, Index... index) {
  const int at[] = {index...};
  Fiber& me = block.fibers[block.running];
  bool inside;
  for (int k = 0; k < elements_of(map); k++) {
    char* to = element_of(map, at, k, inside);
    const char* const here = swizzled(map, from, k);
    inside = inside && touch(here, map.bytes, READS, 0);
    if (inside && copy_starts(to, map.bytes, thread_of_cluster(), 0))
      add(me.stores, {to, here, map.bytes, me.store_group, true});
  }
}
inline void commit_stores() { block.fibers[block.running].store_group++; }
template <int PENDING> inline void wait_stores() {
  Fiber& me = block.fibers[block.running];
  perform_before(me.stores, me.store_group - PENDING);
}

// As load_matrix: lane 8j + i gives the address of row i of matrix j; lane l holds elements
// 2(l % 4), 2(l % 4) + 1 of row l / 4 of each, or of column l / 4.
template <int COUNT> inline void store_matrix(char* row, const uint32_t* words, HERE) {
  const int lane = block.running % WARP;
  const uint64_t mine = (uint64_t)row;
  auto mail = exchange(&mine, 1);
  for (int j = 0; j < COUNT; j++) {
    char* const to = (char*)mail[8 * j + lane / 4][0] + lane % 4 * 4;
    if (touch(to, 4, WRITES, line)) memcpy(to, words + j, 4);
  }
}

template <int COUNT> inline void store_matrix_transposed(char* row, const uint32_t* words, HERE) {
  const int lane = block.running % WARP;
  const uint64_t mine = (uint64_t)row;
  auto mail = exchange(&mine, 1);
  for (int j = 0; j < COUNT; j++)
    for (int i = 0; i < 2; i++) {
      char* const to = (char*)mail[8 * j + lane % 4 * 2 + i][0] + lane / 4 * 2;
      if (touch(to, 2, WRITES, line)) memcpy(to, (const char*)(words + j) + 2 * i, 2);
    }
}
