// What elementwise operations mean where C leaves it open, or has one name a type.
#pragma once

// Quotients are cut towards zero. Division by zero gives all ones and leaves the dividend over; the
// smallest integer divided by -1 is itself.
FUNCTION unsigned divide(unsigned a, unsigned b) { return b == 0 ? ~0u : a / b; }
FUNCTION unsigned modulo(unsigned a, unsigned b) { return b == 0 ? a : a % b; }
FUNCTION int divide(int a, int b) {
  if (b == 0) return -1;
  return b == -1 ? (int)(0u - (unsigned)a) : a / b;
}
FUNCTION int modulo(int a, int b) {
  if (b == 0) return a;
  return b == -1 ? 0 : a % b;
}
FUNCTION float divide(float a, float b) { return a / b; }
FUNCTION float modulo(float a, float b) { return fmodf(a, b); }

FUNCTION float magnitude(float a) { return fabsf(a); }
FUNCTION int magnitude(int a) { return a < 0 ? (int)(0u - (unsigned)a) : a; }
template <class V> FUNCTION V relu(V a) { return a > 0 ? a : (V)0; }

// Bits moved out of the word are gone, however far.
FUNCTION unsigned shifted_left(unsigned a, unsigned by) { return by < 32 ? a << by : 0; }
FUNCTION unsigned shifted_right(unsigned a, unsigned by) { return by < 32 ? a >> by : 0; }
