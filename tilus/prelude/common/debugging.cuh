// Text from a running kernel.
#pragma once

FUNCTION void print_number(float value) {
  if (value != value) printf("nan");
  else printf("%.9g", (double)value);
}
FUNCTION void print_number(int value) { printf("%d", value); }
FUNCTION void print_number(unsigned value) { printf("%u", value); }

template <class V>
FUNCTION void print_tile(const char* heading, unsigned x, unsigned y, unsigned z, const V* values,
                         int count, int columns) {
  printf("%s of block %u %u %u\n", heading, x, y, z);
  for (int i = 0; i < count; i++) {
    print_number(values[i]);
    printf((i + 1) % columns == 0 ? "\n" : " ");
  }
}
