// What Hopper and later GPUs have beyond tilus.cuh, from sm_90 on.

// 9.7.13.15 mbarrier
template <int COUNT> FUNCTION void init_barriers(char* barriers, int arrivals) {
  if (threadIdx.x == 0) {
#pragma unroll
    for (int i = 0; i < COUNT; i++)
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::
                   "r"(shared_address(barriers + 8 * i)), "r"(arrivals) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // the copy engine sees them too
  }
  __syncthreads();
}
FUNCTION void arrive(char* barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0)
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(shared_address(barrier))
                 : "memory");
}
FUNCTION void expect(char* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::
               "r"(shared_address(barrier)), "r"(bytes) : "memory");
}
// try_wait sleeps for a while itself
FUNCTION void wait_barrier(char* barrier, uint32_t parity) {
  uint32_t ended = 0;
  while (!ended)
    asm volatile(
        "{\n\t.reg .pred p;\n\t"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, p;\n\t}"
        : "=r"(ended) : "r"(shared_address(barrier)), "r"(parity) : "memory");
}

// 9.7.9.18 createpolicy
enum Cache { NORMAL, EVICT_FIRST, EVICT_LAST };
template <Cache CACHE> FUNCTION uint64_t cache_policy() {
  uint64_t policy;
  if constexpr (CACHE == EVICT_FIRST)
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  else
    asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// 9.7.9.25.4.1 cp.async.bulk
template <Cache CACHE>
FUNCTION void copy_bulk(char* to, const char* from, int bytes, char* barrier) {
  if constexpr (CACHE == NORMAL)
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                 " [%0], [%1], %2, [%3];" ::
                 "r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
  else
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
                 " [%0], [%1], %2, [%3], %4;" ::
                 "r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(barrier)),
                 "l"(cache_policy<CACHE>()) : "memory");
}

// 9.7.19.5 setmaxnreg; a block starts with at most BUDGET registers a thread
template <int REGISTERS, int BUDGET> FUNCTION void set_registers() {
  if constexpr (REGISTERS < BUDGET)
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
  else
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// 5.5.8 tensor-map: what the driver made of a tensor's address, extents, strides and box
struct alignas(64) TensorMap { uint64_t words[16]; };
#define TENSOR_MAP const __grid_constant__ TensorMap

// 9.7.9.27.1.2 cp.async.bulk.tensor; indices from the last dimension to the first
#define TENSOR_COPIES(rank, parameters, braces, mask, ...)                                        \
  FUNCTION void copy_tensor(char* to, const TensorMap& map, char* barrier, parameters) {          \
    asm volatile("cp.async.bulk.tensor." #rank "d.shared::cluster.global.tile.mbarrier"           \
                 "::complete_tx::bytes [%0], [%1, " braces "], [%2];" ::                          \
                 "r"(shared_address(to)), "l"(&map), "r"(shared_address(barrier)), __VA_ARGS__    \
                 : "memory");                                                                     \
  }                                                                                               \
  template <int PEERS>                                                                            \
  FUNCTION void copy_tensor_to(char* to, const TensorMap& map, char* barrier, parameters) {       \
    asm volatile("cp.async.bulk.tensor." #rank "d.shared::cluster.global.tile.mbarrier"           \
                 "::complete_tx::bytes.multicast::cluster [%0], [%1, " braces "], [%2], %" mask   \
                 ";" ::                                                                           \
                 "r"(shared_address(to)), "l"(&map), "r"(shared_address(barrier)), __VA_ARGS__,   \
                 "h"((uint16_t)PEERS) : "memory");                                                \
  }                                                                                               \
  FUNCTION void store_tensor(const TensorMap& map, const char* from, parameters) {                \
    asm volatile("cp.async.bulk.tensor." #rank "d.global.shared::cta.tile.bulk_group"             \
                 " [%1, " braces "], [%0];" ::                                                    \
                 "r"(shared_address(from)), "l"(&map), "n"(0), __VA_ARGS__ : "memory");           \
  }
#define AND ,
TENSOR_COPIES(1, int a, "{%3}", "4", "r"(a))
TENSOR_COPIES(2, int a AND int b, "{%3, %4}", "5", "r"(a), "r"(b))
TENSOR_COPIES(3, int a AND int b AND int c, "{%3, %4, %5}", "6", "r"(a), "r"(b), "r"(c))
TENSOR_COPIES(4, int a AND int b AND int c AND int d, "{%3, %4, %5, %6}", "7", "r"(a), "r"(b), "r"(c),
              "r"(d))
TENSOR_COPIES(5, int a AND int b AND int c AND int d AND int e, "{%3, %4, %5, %6, %7}", "8", "r"(a),
              "r"(b), "r"(c), "r"(d), "r"(e))
#undef AND

// 9.7.9.25.5 groups of stores
FUNCTION void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int PENDING> FUNCTION void wait_stores() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(PENDING) : "memory");
}

#define CLUSTER(x, y, z) __cluster_dims__(x, y, z)
// 9.7.13.4 barrier.cluster
FUNCTION void synchronize_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" :::
               "memory");
}
// 9.7.9.24 mapa: the same place in the shared memory of block `rank` of the cluster
FUNCTION char* peer_place(char* place, uint32_t rank) {
  char* there;
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(place), "r"(rank));
  return there;
}
// 9.7.13.15.13 mbarrier.arrive, in another block of the cluster
FUNCTION void arrive_peer(char* barrier, uint32_t rank) {
  __syncwarp();
  if (threadIdx.x % 32 == 0)
    asm volatile(
        "{\n\t.reg .b32 there;\n\t"
        "mapa.shared::cluster.u32 there, %0, %1;\n\t"
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n\t}" ::
        "r"(shared_address(barrier)), "r"(rank) : "memory");
}

// 9.7.14.5.16 stmatrix
template <int COUNT> FUNCTION void store_matrix(char* row, const uint32_t* words) {
  const uint32_t to = shared_address(row);
  if constexpr (COUNT == 4)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::
                 "r"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]) : "memory");
  if constexpr (COUNT == 2)
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::
                 "r"(to), "r"(words[0]), "r"(words[1]) : "memory");
  if constexpr (COUNT == 1)
    asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" ::
                 "r"(to), "r"(words[0]) : "memory");
}

template <int COUNT> FUNCTION void store_matrix_transposed(char* row, const uint32_t* words) {
  const uint32_t to = shared_address(row);
  if constexpr (COUNT == 4)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::
                 "r"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]) : "memory");
  if constexpr (COUNT == 2)
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::
                 "r"(to), "r"(words[0]), "r"(words[1]) : "memory");
  if constexpr (COUNT == 1)
    asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::
                 "r"(to), "r"(words[0]) : "memory");
}
