// Products of four warps together (PTX ISA 9.7.15): sums in registers, asynchronously.
#pragma once
#include "descriptor.cuh"

// A number that is the same in all lanes of a warp, known to be so.
FUNCTION unsigned uniform(unsigned number) { return __shfl_sync(~0u, number, 0); }
FUNCTION Descriptor matrix_descriptor(const char* tile) { return descriptor_of(shared_address(tile)); }

// 9.7.15.7.1 wgmma.fence: registers written before may be read by the products that follow
FUNCTION void fence_dots() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
FUNCTION void commit_dots() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> FUNCTION void wait_dots() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// What was summed is not read before the wait that stands above.
template <int COUNT> FUNCTION void settle(uint32_t* words) {
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+r"(words[i])::"memory");
}
// 9.7.13.7 fence.proxy.async: what this thread wrote to shared memory is seen by the tensor cores
FUNCTION void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// 9.7.15.5.2 wgmma.mma_async m64nNk16, a in registers, b by descriptor with k along its rows
template <int N> struct WarpgroupDot;
#define WARPGROUP_DOT_OF(N, name, type, sums, operands, ...)                                     \
  static FUNCTION void name(uint32_t* d, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,     \
                            Descriptor b) {                                                      \
    asm volatile("{.reg .pred more; setp.ne.b32 more, 1, 0;"                                     \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " {" sums "}, " \
                 operands ", more, 1, 1, 0;}"                                                    \
                 : __VA_ARGS__ : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b) : "memory");         \
  }
#define WARPGROUP_DOT(N, sums, operands, ...)                        \
  template <> struct WarpgroupDot<N> {                               \
    WARPGROUP_DOT_OF(N, f16, "f16", sums, operands, __VA_ARGS__)     \
    WARPGROUP_DOT_OF(N, bf16, "bf16", sums, operands, __VA_ARGS__)   \
  };
#define WORDS_4(i) "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3])
#define WORDS_8(i) WORDS_4(i), WORDS_4(i + 4)
#define WORDS_16(i) WORDS_8(i), WORDS_8(i + 8)
#define WORDS_32(i) WORDS_16(i), WORDS_16(i + 16)
#define NAMES_4 "%0, %1, %2, %3"
#define NAMES_8 NAMES_4 ", %4, %5, %6, %7"
#define NAMES_16 NAMES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define NAMES_32 NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_64 NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NAMES_96 NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define NAMES_128 NAMES_96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109" \
  ", %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
WARPGROUP_DOT(8, NAMES_4, "{%4, %5, %6, %7}, %8", WORDS_4(0))
WARPGROUP_DOT(16, NAMES_8, "{%8, %9, %10, %11}, %12", WORDS_8(0))
WARPGROUP_DOT(32, NAMES_16, "{%16, %17, %18, %19}, %20", WORDS_16(0))
WARPGROUP_DOT(64, NAMES_32, "{%32, %33, %34, %35}, %36", WORDS_32(0))
WARPGROUP_DOT(128, NAMES_64, "{%64, %65, %66, %67}, %68", WORDS_32(0), WORDS_32(32))
WARPGROUP_DOT(256, NAMES_128, "{%128, %129, %130, %131}, %132", WORDS_32(0), WORDS_32(32), WORDS_32(64), WORDS_32(96))
