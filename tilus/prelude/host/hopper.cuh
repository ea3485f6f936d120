// Hopper's barriers and bulk copies, on the host. A copy happens when a thread waits for its
// barrier and would have to stop, so that one that forgets to wait reads garbage.

// What a barrier counts, in its 64 bits. Fresh shared memory is all ones: nobody gets through.
struct CountingBarrier {
  uint64_t broken : 1, phase : 1, arrivals : 20, pending : 20;
  int64_t bytes : 22;
};

inline CountingBarrier& counting(char* barrier) { return *(CountingBarrier*)barrier; }
inline void count_bytes(char* barrier, int bytes) {
  auto& b = counting(barrier);
  b.bytes += bytes;
  if (!b.pending && !b.bytes) b.phase ^= 1, b.pending = b.arrivals, block.progress++;
}
inline void arrive_once(char* barrier, int bytes) {
  auto& b = counting(barrier);
  if (b.pending) b.pending--, count_bytes(barrier, bytes);
  else b.broken = 1;  // more arrive than it was made for
}

template <int COUNT> inline void init_barriers(char* barriers, int arrivals) {
  for (int i = 0; i < COUNT && block.running == 0; i++)
    counting(barriers + 8 * i) = {0, 0, (uint64_t)arrivals, (uint64_t)arrivals, 0};
  synchronize();
}
inline void arrive(char* barrier) {
  release(clock_at(barrier)[counting(barrier).phase], block.running);
  const int warp = block.running / WARP, rest = block.threads - warp * WARP;
  wait_at(block.warps[warp], rest < WARP ? rest : WARP);
  if (block.running % WARP == 0) arrive_once(barrier, 0);
}
inline void expect(char* barrier, int bytes) {
  release(clock_at(barrier)[counting(barrier).phase], block.running);
  arrive_once(barrier, bytes);
}

// The copies that report to `barrier` happen.
inline void deliver(const char* barrier) {
  int kept = 0, bytes = 0;
  for (int i = 0; i < block.bulk.count; i++) {
    const Copy copy = block.bulk.copies[i];
    if (copy.barrier != barrier) block.bulk.copies[kept++] = copy;
    else {
      engine_writes(copy.to, copy.bytes, copy.line);
      perform(copy), bytes += copy.bytes;
    }
  }
  block.bulk.count = kept;
  if (bytes) release(clock_at(barrier)[counting((char*)barrier).phase], watch.threads);
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
  acquire(clock_at(barrier)[parity], me);
}

enum Cache { NORMAL, EVICT_FIRST, EVICT_LAST };
template <Cache> inline void copy_bulk(char* to, const char* from, int bytes, char* barrier, HERE) {
  if ((uintptr_t)to % 16 || (uintptr_t)from % 16 || bytes % 16) abort();
  const bool inside = touch(from, bytes, READS, block.running, line);
  if (copy_starts(to, bytes, block.running, line)) add(block.bulk, {to, from, bytes, 0, inside, line, barrier});
}
