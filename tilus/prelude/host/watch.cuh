// Watching a kernel's accesses to memory, on the host: what a GPU would leave to chance is told.
//
// Every access is compared with those before it to the same bytes. Two of them, one a write, are in
// order only if
//   - one thread makes both, or
//   - they are in one block, and the thread of the first has since released (it came to a
//     `synchronize`, or arrived at a barrier) what the thread of the second acquired, or
//   - they are in two blocks, and an atomic of the one saw an atomic of the other in between.
// Whatever else makes them come in order here is luck. An asynchronous copy writes at some time
// between its start and the end of the wait for it: until then nobody may touch its target, and
// afterwards it is a write of the thread that waited, or of the copy engine, which releases it to
// those who wait for its barrier. An access also has to lie inside an array or the shared memory.
//
// The order in which fibers run does not matter for what is found, so a race is found each time.
// A new way to order accesses has to release and acquire.
#pragma once

#define HERE int line = __builtin_LINE()  // the line of generated text that calls

enum Action { READS, WRITES };

struct Stamp {
  int block = -1;  // never
  int thread = 0, epoch = 0, tick = 0, line = 0;
};

constexpr int READERS = 8;  // that are remembered; the oldest of more are forgotten

struct Shadow {
  Stamp writer, readers[READERS];
  int next = 0;      // place of the next reader
  short copier = 0;  // whose copy to it is under way, 0 for none, else thread + 1
};
const Shadow UNTOUCHED = {};

constexpr int PAGE = 64, FINDINGS = 4096;

struct Page {
  uintptr_t number;
  Page* next;
  Shadow bytes[PAGE];
};

struct Extent {
  const char* from;
  int64_t size;
};

struct Clock {  // what of each block is visible, by a counter in global memory
  const void* where;
  int* seen;
  Clock* next;
};

constexpr int MOST_CLOCKS = 1025;  // threads, and the copy engine

struct Moment {  // how far each thread has come, as far as somebody knows
  int of[MOST_CLOCKS];
};

struct BarrierClock {  // what was released at a barrier in shared memory, in even and odd phases
  const void* where;
  Moment phases[2];
  BarrierClock* next;
};

struct Watch {
  bool on;
  int blocks, threads, current, extents;
  Extent* extent;
  int64_t shared_bytes;
  const char* shared;
  Page* pages[1 << 14];
  Clock* clocks;
  int* seen;  // of each block by the current one
  int* ticks;
  int now[MOST_CLOCKS];  // of each thread: a release begins another time
  Moment* known;         // to each thread
  Moment all[2];         // what was released to the next `synchronize`, in even and odd turns
  BarrierClock* barriers;
  int length;
  char findings[FINDINGS];
};
static Watch watch;

extern "C" __attribute__((used, visibility("default"))) inline const char* findings() {
  return watch.findings;
}

inline Shadow& shadow_of(const char* byte) {
  const uintptr_t number = (uintptr_t)byte / PAGE;
  Page*& first = watch.pages[number % (1 << 14)];
  Page* page = first;
  while (page && page->number != number) page = page->next;
  if (!page) {
    page = (Page*)malloc(sizeof(Page));
    page->number = number, page->next = first, first = page;
    for (auto& each : page->bytes) each = UNTOUCHED;
  }
  return page->bytes[(uintptr_t)byte % PAGE];
}

inline bool is_shared(const char* byte) {
  return byte >= watch.shared && byte < watch.shared + watch.shared_bytes;
}

inline void tell(const char* what, const char* byte, int thread, int line, int other, int other_line) {
  const char* space = is_shared(byte) ? "shared" : "global";
  long long place = (long long)(byte - watch.shared);
  for (int i = 0; i < watch.extents && !is_shared(byte); i++)
    if (byte >= watch.extent[i].from && byte < watch.extent[i].from + watch.extent[i].size)
      place = byte - watch.extent[i].from;
  char text[256];
  const int length = snprintf(text, sizeof text, "%d %d %s byte %lld, block %d: thread %d %s thread %d\n", line,
                              other_line, space, place, watch.current, thread, what, other);
  if (watch.length + length >= FINDINGS) return;
  memcpy(watch.findings + watch.length, text, length + 1);
  watch.length += length;
}

inline bool ordered(const Stamp& before, int thread) {
  if (before.block < 0) return true;
  if (before.block != watch.current) return before.tick <= watch.seen[before.block];
  return before.thread == thread || before.epoch <= watch.known[thread].of[before.thread];
}

// A read, in place of one that it makes needless to remember, if there is such.
inline void remember(Shadow& shadow, const Stamp& now) {
  for (Stamp& reader : shadow.readers)
    if (ordered(reader, now.thread)) {
      reader = now;
      return;
    }
  shadow.readers[shadow.next++ % READERS] = now;
}

// One byte that `thread` touches; true if something was told.
inline bool touch_byte(const char* byte, Action action, int thread, int line) {
  Shadow& shadow = shadow_of(byte);
  if (shadow.copier) {
    tell("touches what has not been waited for, copied by", byte, thread, line, shadow.copier - 1,
         shadow.writer.line);
    return true;
  }
  if (!ordered(shadow.writer, thread)) {
    tell(action == WRITES ? "overwrites with no order what was written by"
                          : "reads with no order what was written by",
         byte, thread, line, shadow.writer.thread, shadow.writer.line);
    return true;
  }
  const Stamp now = {watch.current, thread, watch.now[thread], watch.ticks[watch.current], line};
  if (action == READS) {
    remember(shadow, now);
    return false;
  }
  for (const Stamp& reader : shadow.readers)
    if (!ordered(reader, thread)) {
      tell("overwrites with no order what was read by", byte, thread, line, reader.thread, reader.line);
      return true;
    }
  shadow = UNTOUCHED, shadow.writer = now;
  return false;
}

inline bool inside_something(const char* from, int bytes) {
  if (from >= watch.shared && from + bytes <= watch.shared + watch.shared_bytes) return true;
  for (int i = 0; i < watch.extents; i++)
    if (from >= watch.extent[i].from && from + bytes <= watch.extent[i].from + watch.extent[i].size)
      return true;
  return false;
}

// `thread` reads or writes these bytes; false if they are nobody's, and must not be touched.
inline bool touch(const void* from, int bytes, Action action, int thread, int line) {
  if (!watch.on) return true;
  const char* first = (const char*)from;
  if (!inside_something(first, bytes)) {
    tell("touches what no array has, asked by", first, thread, line, thread, line);
    return false;
  }
  for (int i = 0; i < bytes; i++)
    if (touch_byte(first + i, action, thread, line)) break;
  return true;
}

// A copy to these bytes starts; false if they are nobody's.
inline bool copy_starts(const void* to, int bytes, int thread, int line) {
  if (!watch.on) return true;
  if (!touch(to, bytes, WRITES, thread, line)) return false;
  for (int i = 0; i < bytes; i++) {
    Shadow& shadow = shadow_of((const char*)to + i);
    shadow.copier = (short)(thread + 1), shadow.writer.line = line;
  }
  return true;
}
inline void copy_ends(const void* to, int bytes, int thread, int line) {
  for (int i = 0; watch.on && i < bytes; i++) shadow_of((const char*)to + i).copier = 0;
  touch(to, bytes, WRITES, thread, line);
}

// The copy engine writes what a copy brought.
inline void engine_writes(const void* to, int bytes, int line) {
  for (int i = 0; watch.on && i < bytes; i++) {
    Shadow& shadow = shadow_of((const char*)to + i);
    shadow = UNTOUCHED;
    shadow.writer = {watch.current, watch.threads, watch.now[watch.threads], watch.ticks[watch.current], line};
  }
}

inline void join(Moment& to, const Moment& from) {
  for (int i = 0; i <= watch.threads; i++)
    if (to.of[i] < from.of[i]) to.of[i] = from.of[i];
}
// `thread` lets those who acquire `moment` see all that it did and saw until now.
inline void release(Moment& moment, int thread) {
  if (!watch.on) return;
  watch.known[thread].of[thread] = watch.now[thread]++;
  join(moment, watch.known[thread]);
}
inline void acquire(const Moment& moment, int thread) {
  if (watch.on) join(watch.known[thread], moment);
}
// The two moments of a barrier in shared memory.
inline Moment* clock_at(const void* where) {
  static Moment unwatched[2];
  if (!watch.on) return unwatched;
  BarrierClock* found = watch.barriers;
  while (found && found->where != where) found = found->next;
  if (!found) {
    found = (BarrierClock*)calloc(1, sizeof(BarrierClock));
    found->where = where, found->next = watch.barriers, watch.barriers = found;
  }
  return found->phases;
}

// The block, as one, releases what it did and acquires what others released at `where`.
inline void meet(const void* where) {
  if (!watch.on) return;
  Clock* clock = watch.clocks;
  while (clock && clock->where != where) clock = clock->next;
  if (!clock) {
    clock = (Clock*)malloc(sizeof(Clock));
    clock->where = where, clock->next = watch.clocks, watch.clocks = clock;
    clock->seen = (int*)calloc(watch.blocks, sizeof(int));
  }
  for (int i = 0; i < watch.blocks; i++) {
    const int mine = i == watch.current ? watch.ticks[i] : watch.seen[i];
    const int theirs = clock->seen[i];
    clock->seen[i] = watch.seen[i] = mine > theirs ? mine : theirs;
  }
  watch.ticks[watch.current]++;
}

// Accesses of a launch of so many blocks to these arrays are watched, if there are any.
inline void watch_launch(int blocks, int threads, const int64_t* sizes, void** arguments, int count) {
  watch.on = sizes != nullptr, watch.length = 0, watch.findings[0] = 0;
  if (!watch.on) return;
  watch.blocks = blocks, watch.threads = threads, watch.extents = count;
  watch.known = (Moment*)calloc(threads + 1, sizeof(Moment));
  watch.extent = (Extent*)calloc(count + 1, sizeof(Extent));
  for (int i = 0; i < count; i++) watch.extent[i] = {(const char*)arguments[i], sizes[i]};
  watch.seen = (int*)calloc(blocks, sizeof(int));
  watch.ticks = (int*)calloc(blocks, sizeof(int));
}
inline void forget_barriers() {
  while (watch.barriers) {
    BarrierClock* next = watch.barriers->next;
    free(watch.barriers);
    watch.barriers = next;
  }
}
inline void watch_block(int block, const char* shared, int shared_bytes) {
  if (!watch.on) return;
  watch.current = block, watch.shared = shared, watch.shared_bytes = shared_bytes;
  memset(watch.seen, 0, watch.blocks * sizeof(int));
  memset(watch.known, 0, (watch.threads + 1) * sizeof(Moment));
  memset(watch.all, 0, sizeof watch.all);
  for (int& now : watch.now) now = 1;
  forget_barriers();
  watch.ticks[block] = 1;
  for (int i = 0; i < shared_bytes; i++)
    shadow_of(shared + i) = UNTOUCHED;
}
inline void watch_ends() {
  if (!watch.on) return;
  for (Page*& first : watch.pages)
    while (first) {
      Page* next = first->next;
      free(first);
      first = next;
    }
  while (watch.clocks) {
    Clock* next = watch.clocks->next;
    free(watch.clocks->seen), free(watch.clocks);
    watch.clocks = next;
  }
  forget_barriers();
  free(watch.extent), free(watch.seen), free(watch.ticks), free(watch.known);
  watch.on = false;
}
