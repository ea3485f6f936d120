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

struct Range {
  const char* from;
  int64_t size;
};

struct Clock {  // what of each block is visible, by a counter in global memory
  const void* where;
  int* seen;
  Clock* next;
};

// A moment says how far each thread of a cluster, and the copy engine of each of its blocks, has
// come, as far as somebody knows.
typedef int* Moment;

struct Meeting {  // what was released at a barrier, in even and odd turns
  const void* where;
  Moment turns[2];
  Meeting* next;
};

struct Watch {
  bool on;
  int clusters, current, width, ranges, in_cluster;
  Range* range;
  Range shared[8];  // of each block of the cluster
  Page* pages[1 << 14];
  Clock* clocks;
  int* seen;  // of each cluster by the current one
  int* ticks;
  Moment now;     // a release begins another time of the thread
  Moment* known;  // to each thread
  Meeting* meetings;
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

inline const Range* range_of(const char* from, int bytes, const Range* all, int count) {
  for (int i = 0; i < count; i++)
    if (from >= all[i].from && from + bytes <= all[i].from + all[i].size) return all + i;
  return nullptr;
}
inline const Range* shared_range(const char* from, int bytes) {
  return range_of(from, bytes, watch.shared, watch.in_cluster);
}
inline const Range* global_range(const char* from, int bytes) {
  return range_of(from, bytes, watch.range, watch.ranges);
}

inline void tell(const char* what, const char* byte, int thread, int line, int other, int other_line) {
  const Range* shared = shared_range(byte, 1);
  const Range* range = shared ? shared : global_range(byte, 1);
  char text[256];
  const int length =
      snprintf(text, sizeof text, "%d %d %s byte %lld, block %d: thread %d %s thread %d\n", line, other_line,
               shared ? "shared" : "global", range ? (long long)(byte - range->from) : 0, watch.current,
               thread, what, other);
  if (watch.length + length >= FINDINGS) return;
  memcpy(watch.findings + watch.length, text, length + 1);
  watch.length += length;
}

inline bool ordered(const Stamp& before, int thread) {
  if (before.block < 0) return true;
  if (before.block != watch.current) return before.tick <= watch.seen[before.block];
  return before.thread == thread || before.epoch <= watch.known[thread][before.thread];
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

// `thread` reads or writes these bytes; false if they are nobody's, and must not be touched.
inline bool touch(const void* from, int bytes, Action action, int thread, int line) {
  if (!watch.on) return true;
  const char* first = (const char*)from;
  if (!shared_range(first, bytes) && !global_range(first, bytes)) {
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
inline void engine_writes(const void* to, int bytes, int engine, int line) {
  for (int i = 0; watch.on && i < bytes; i++) {
    Shadow& shadow = shadow_of((const char*)to + i);
    shadow = UNTOUCHED;
    shadow.writer = {watch.current, engine, watch.now[engine], watch.ticks[watch.current], line};
  }
}

inline void join(Moment to, const Moment from) {
  for (int i = 0; i < watch.width; i++)
    if (to[i] < from[i]) to[i] = from[i];
}
inline Moment beginning() { return (Moment)calloc(watch.width, sizeof(int)); }
// The meeting at a barrier, whose name is its address.
inline Meeting& meeting_at(const void* where) {
  Meeting* found = watch.meetings;
  while (found && found->where != where) found = found->next;
  if (!found) {
    found = (Meeting*)malloc(sizeof(Meeting));
    *found = {where, {beginning(), beginning()}, watch.meetings};
    watch.meetings = found;
  }
  return *found;
}
// `thread` lets those who acquire at a barrier, in a turn as even, see all that it did and saw.
inline void release(const void* where, int turn, int thread) {
  if (!watch.on) return;
  watch.known[thread][thread] = watch.now[thread]++;
  join(meeting_at(where).turns[turn % 2], watch.known[thread]);
}
inline void acquire(const void* where, int turn, int thread) {
  if (watch.on) join(watch.known[thread], meeting_at(where).turns[turn % 2]);
}

inline Clock& clock_at(const void* where) {
  Clock* clock = watch.clocks;
  while (clock && clock->where != where) clock = clock->next;
  if (!clock) {
    clock = (Clock*)malloc(sizeof(Clock));
    *clock = {where, (int*)calloc(watch.clusters, sizeof(int)), watch.clocks};
    watch.clocks = clock;
  }
  return *clock;
}
// `thread`, and whom it has seen, release what they did to those who observe `where`, in global
// memory.
inline void publish(const void* where, int thread) {
  if (!watch.on) return;
  release(where, 0, thread);
  int* seen = clock_at(where).seen;
  for (int i = 0; i < watch.clusters; i++) {
    const int mine = i == watch.current ? watch.ticks[i] : watch.seen[i];
    if (seen[i] < mine) seen[i] = mine;
  }
  watch.ticks[watch.current]++;
}
inline void observe(const void* where, int thread) {
  if (!watch.on) return;
  acquire(where, 0, thread);
  const int* seen = clock_at(where).seen;
  for (int i = 0; i < watch.clusters; i++)
    if (watch.seen[i] < seen[i]) watch.seen[i] = seen[i];
}

// Accesses of a launch of so many clusters to these arrays are watched, if there are any.
inline void watch_launch(int clusters, int in_cluster, int threads, const int64_t* sizes,
                         void** arguments, int count) {
  watch.on = sizes != nullptr, watch.length = 0, watch.findings[0] = 0;
  if (!watch.on) return;
  watch.clusters = clusters, watch.in_cluster = in_cluster, watch.ranges = count;
  watch.width = in_cluster * (threads + 1);
  watch.range = (Range*)calloc(count + 1, sizeof(Range));
  for (int i = 0; i < count; i++) watch.range[i] = {(const char*)arguments[i], sizes[i]};
  watch.seen = (int*)calloc(clusters, sizeof(int));
  watch.ticks = (int*)calloc(clusters, sizeof(int));
  watch.now = beginning();
  watch.known = (Moment*)calloc(watch.width, sizeof(Moment));
  for (int i = 0; i < watch.width; i++) watch.known[i] = beginning();
}
inline void forget_meetings() {
  while (watch.meetings) {
    Meeting* next = watch.meetings->next;
    for (Moment turn : watch.meetings->turns) free(turn);
    free(watch.meetings);
    watch.meetings = next;
  }
}
// Nothing has happened yet in a cluster, or in the shared memory of one of its blocks.
inline void watch_cluster(int cluster) {
  if (!watch.on) return;
  watch.current = cluster, watch.ticks[cluster] = 1;
  memset(watch.seen, 0, watch.clusters * sizeof(int));
  for (int i = 0; i < watch.width; i++) {
    watch.now[i] = 1;
    memset(watch.known[i], 0, watch.width * sizeof(int));
  }
  forget_meetings();
}
inline void watch_block(int rank, const char* shared, int bytes) {
  if (!watch.on) return;
  watch.shared[rank] = {shared, bytes};
  for (int i = 0; i < bytes; i++) shadow_of(shared + i) = UNTOUCHED;
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
  forget_meetings();
  for (int i = 0; i < watch.width; i++) free(watch.known[i]);
  free(watch.range), free(watch.seen), free(watch.ticks), free(watch.now), free(watch.known);
  watch.on = false;
}
