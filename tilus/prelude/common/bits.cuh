// Elements of a tile in a thread's registers: words of 32 bits, element i of n bits at bit n * i.
// Pure C++ that means the same on a GPU and on the host; the chip's own instructions come from
// the tilus.cuh that includes this.
#pragma once

enum Specials { NONE, FN, IEEE };
template <int BITS> struct U { static constexpr int bits = BITS; };
template <int BITS> struct I { static constexpr int bits = BITS; };
template <int EXPONENT, int MANTISSA, Specials SPECIALS> struct F {
  static constexpr int bits = 1 + EXPONENT + MANTISSA;
};
struct Bool { static constexpr int bits = 8; };
struct F16 { static constexpr int bits = 16; };
struct BF16 { static constexpr int bits = 16; };
struct F32 { static constexpr int bits = 32; };

template <int FIRST, int BITS> FUNCTION uint32_t get_bits(const uint32_t* words) {
  constexpr int word = FIRST / 32, shift = FIRST % 32;
  constexpr uint32_t mask = BITS == 32 ? ~0u : (1u << BITS % 32) - 1;
  if constexpr (shift + BITS <= 32) return words[word] >> shift & mask;
  else return funnel_right(words[word], words[word + 1], shift) & mask;
}

template <int FIRST, int BITS> FUNCTION void set_bits(uint32_t* words, uint32_t value) {
  constexpr int word = FIRST / 32, shift = FIRST % 32;
  constexpr uint32_t all = BITS == 32 ? ~0u : (1u << BITS % 32) - 1, mask = all << shift;
  words[word] = (words[word] & ~mask) | (value << shift & mask);
  if constexpr (shift + BITS > 32) {
    constexpr uint32_t rest = all >> (32 - shift);
    words[word + 1] = (words[word + 1] & ~rest) | (value >> (32 - shift) & rest);
  }
}

// An element of BITS bits at bit `offset` of memory, to bit PLACE of `words`; zero where not `inside`.
template <int BITS, int PLACE>
FUNCTION void load_bits(uint32_t* words, const char* memory, int64_t offset, bool inside) {
  uint32_t value = 0;
  if (inside) {
    const int shift = (int)(offset % 8);
    const uint8_t* from = (const uint8_t*)memory + offset / 8;
    value = from[0] >> shift;
    if (shift + BITS > 8) value |= (uint32_t)from[1] << (8 - shift);
  }
  set_bits<PLACE, BITS>(words, value);
}

FUNCTION float power_of_two(int exponent) { return as_float((uint32_t)(exponent + 127) << 23); }

// The value of a code of a float of up to 8 bits; all of them are exact in float32.
template <int E, int M, Specials S> FUNCTION float decode(uint32_t code) {
  const uint32_t mantissa = code & ((1u << M) - 1), exponent = code >> M & ((1u << E) - 1);
  constexpr int bias = (1 << (E - 1)) - 1;
  const float size = exponent == 0
      ? (float)mantissa * power_of_two(1 - bias - M)
      : (float)(mantissa + (1u << M)) * power_of_two((int)exponent - bias - M);
  const uint32_t sign = code >> (E + M) << 31;
  if (S == IEEE && exponent == (1u << E) - 1)
    return as_float(sign | (mantissa ? 0x7FC00000u : 0x7F800000u));
  if (S == FN && (code & ((1u << (E + M)) - 1)) == (1u << (E + M)) - 1)
    return as_float(sign | 0x7FC00000u);
  return as_float(sign | as_bits(size));
}

// The code nearest to a number, ties to the even code. Beyond the largest value lies infinity (IEEE),
// else nothing: the largest value is taken, and for NaN too where there is none.
template <int E, int M, Specials S> FUNCTION uint32_t encode(float value) {
  constexpr int bias = (1 << (E - 1)) - 1;
  constexpr uint32_t all = (1u << (E + M)) - 1;
  constexpr uint32_t largest = all - (S == NONE ? 0 : S == FN ? 1 : 1u << M);
  constexpr uint32_t beyond = S == IEEE ? largest + 1 : largest;
  constexpr uint32_t nan = S == NONE ? largest : S == FN ? all : largest + 1 + (1u << M >> 1);
  const uint32_t bits = as_bits(value), size = bits & 0x7FFFFFFF, sign = bits >> 31 << (E + M);
  if (size > 0x7F800000u) return S == NONE ? nan : nan | sign;
  uint32_t code;
  if (size < (uint32_t)(128 - bias) << 23) {  // subnormal: a sum whose last bit is the smallest step
    const float step = power_of_two(24 - bias - M);
    code = as_bits(as_float(size) + step) - as_bits(step);
  } else {
    const uint32_t moved = size - ((uint32_t)(127 - bias) << 23);
    code = (moved + (1u << (22 - M)) - 1 + (moved >> (23 - M) & 1)) >> (23 - M);
  }
  return (code > largest ? beyond : code) | sign;
}

// A 32-bit integer as a float32 whose last bit tells of what is cut off: rounding it again, to fewer
// bits, gives what rounding the integer once would.
FUNCTION float to_odd(unsigned value) {
  return (float)(value < 1u << 24 ? value : (value & ~0xFFu) | (value & 0xFF ? 0x100u : 0u));
}
FUNCTION float to_odd(int value) {
  const float size = to_odd(value < 0 ? 0u - (unsigned)value : (unsigned)value);
  return value < 0 ? -size : size;
}

template <class T> struct Element;
template <int N> struct Element<U<N>> {
  static constexpr unsigned most = N == 32 ? ~0u : (1u << N % 32) - 1;
  static FUNCTION unsigned value(uint32_t bits) { return bits; }
  static FUNCTION uint32_t bits(unsigned value) { return value > most ? most : value; }
  static FUNCTION uint32_t bits(int value) { return value < 0 ? 0 : bits((unsigned)value); }
  static FUNCTION uint32_t bits(float value) { return round_to_unsigned<N>(value); }
};
template <int N> struct Element<I<N>> {
  static constexpr int most = (int)((1u << (N - 1)) - 1);
  static FUNCTION int value(uint32_t bits) { return (int)(bits << (32 - N)) >> (32 - N); }
  static FUNCTION uint32_t bits(int value) {
    return (uint32_t)(value > most ? most : value < -most - 1 ? -most - 1 : value);
  }
  static FUNCTION uint32_t bits(unsigned value) { return value > (unsigned)most ? most : value; }
  static FUNCTION uint32_t bits(float value) { return round_to_signed<N>(value); }
};
template <> struct Element<Bool> {
  static FUNCTION unsigned value(uint32_t bits) { return bits; }
  template <class V> static FUNCTION uint32_t bits(V value) { return value != 0; }
};
template <int E, int M, Specials S> struct Element<F<E, M, S>> {
  static FUNCTION float value(uint32_t bits) { return decode<E, M, S>(bits); }
  static FUNCTION uint32_t bits(float value) { return encode<E, M, S>(value); }
};
template <> struct Element<F16> {
  static FUNCTION float value(uint32_t bits) { return f16_to_f32((uint16_t)bits); }
  static FUNCTION uint32_t bits(float value) { return f32_to_f16(value); }
};
template <> struct Element<BF16> {
  static FUNCTION float value(uint32_t bits) { return as_float(bits << 16); }
  static FUNCTION uint32_t bits(float value) { return f32_to_bf16(value); }
};
template <> struct Element<F32> {
  static FUNCTION float value(uint32_t bits) { return as_float(bits); }
  static FUNCTION uint32_t bits(float value) { return as_bits(value); }
};

template <class T, int R> FUNCTION auto get(const uint32_t* words) {
  return Element<T>::value(get_bits<R * T::bits, T::bits>(words));
}
template <class T, int R, class V> FUNCTION void set(uint32_t* words, V value) {
  set_bits<R * T::bits, T::bits>(words, Element<T>::bits(value));
}

// Two 16-bit elements in one word, the first in the low half.
template <int LOW, int HIGH> FUNCTION uint32_t pair(const uint32_t* words) {
  constexpr int low = LOW % 2 ? 0x32 : 0x10, high = HIGH % 2 ? 0x7600 : 0x5400;
  if constexpr (HIGH == LOW + 1 && LOW % 2 == 0) return words[LOW / 2];
  else return permute_bytes(words[LOW / 2], words[HIGH / 2], low | high);
}

// 32 bits from bit FIRST on; beyond the last that an N-bit field there needs, any.
template <int FIRST, int N> FUNCTION uint32_t bits_from(const uint32_t* words) {
  constexpr int word = FIRST / 32, shift = FIRST % 32;
  if constexpr (shift + N <= 32) return words[word] >> shift;
  else return funnel_right(words[word], words[word + 1], shift);
}

// One word whose halves hold the N-bit fields at bits LOW and HIGH of `words`, equally far in, among
// other bits: `place` says how far. Fields that straddle halves are moved to WANTED. 16 divides
// HIGH - LOW.
template <int N, int LOW, int HIGH, int WANTED> struct Halves {
  static_assert((HIGH - LOW) % 16 == 0, "the fields lie equally far into their halves");
  static constexpr bool straddles = LOW % 16 + N > 16;
  static constexpr int place = straddles ? WANTED : LOW % 16;

  static FUNCTION uint32_t word(const uint32_t* words) {
    constexpr int end = WANTED + N;
    if constexpr (straddles)
      return permute_bytes(bits_from<LOW - WANTED, end>(words), bits_from<HIGH - WANTED, end>(words), 0x5410);
    else return pair<LOW / 16, HIGH / 16>(words);
  }
};

constexpr FUNCTION uint32_t both(uint32_t half) { return half | half << 16; }
constexpr FUNCTION uint32_t f16_power_of_two(int exponent) { return (uint32_t)(exponent + 15) << 10; }
constexpr FUNCTION uint32_t bf16_power_of_two(int exponent) { return (uint32_t)(exponent + 127) << 7; }

template <class T> struct Integer;
template <int N> struct Integer<U<N>> { static constexpr uint32_t sign = 0; };
template <> struct Integer<Bool> { static constexpr uint32_t sign = 0; };
template <int N> struct Integer<I<N>> { static constexpr uint32_t sign = 1u << (N - 1); };

// Integers to float16 without conversion instructions. A field q at bit p of the mantissa of
// 2^(10 - p) makes the number 2^(10 - p) + q; a sign bit is flipped on the way, which adds
// 2^(N - 1). One subtraction takes both off again, exactly.
template <class T, int LOW, int HIGH, int SHIFT> struct Lifted {
  using Fields = Halves<T::bits, LOW, HIGH, 0>;
  static constexpr int p = Fields::place - SHIFT;
  static constexpr uint32_t magic = f16_power_of_two(10 - p), sign = Integer<T>::sign << p;
  static constexpr uint32_t offset = both(magic + sign);  // as a float16: one mantissa bit is set

  static FUNCTION uint32_t word(const uint32_t* words) {
    constexpr uint32_t mask = both(((1u << T::bits) - 1) << p);
    return and_xor(Fields::word(words) >> SHIFT, mask, both(magic ^ sign));
  }
};
template <class T, int LOW, int HIGH, int SHIFT> FUNCTION uint32_t integers_to_f16(const uint32_t* words) {
  using L = Lifted<T, LOW, HIGH, SHIFT>;
  return sub_f16_pair(L::word(words), L::offset);
}

template <int BY> FUNCTION uint32_t shift_left(uint32_t word) {
  if constexpr (BY >= 0) return word << BY;
  else return word >> -BY;
}
// The same for fields at bit FROM of the halves of a word, of which other bits may be lost. Those above
// a byte share that byte's way down; the rest of it is a way up.
template <int BY, int FROM> FUNCTION uint32_t moved(uint32_t word) {
  if constexpr (BY >= 0 || BY < -8 || FROM < 8) return shift_left<BY>(word);
  else return permute_bytes(word, 0, 0x4321) << (8 + BY);
}
// Two integers at bit PLACE of float16 numbers, multiples of the one that has that bit alone.
template <class T, int LOW, int HIGH, int PLACE> FUNCTION uint32_t lift_integers(const uint32_t* words) {
  using Fields = Halves<T::bits, LOW, HIGH, PLACE>;
  constexpr uint32_t mask = both(((1u << T::bits) - 1) << PLACE), sign = both(Integer<T>::sign << PLACE);
  return and_xor(moved<PLACE - Fields::place, Fields::place>(Fields::word(words)), mask, sign);
}

// Two floats of E exponent and M mantissa bits at their places in a 16-bit float of MANTISSA
// mantissa bits, the sign at the top; the exponent's bias is still that of the source. Codes that
// mean infinity or NaN get an exponent of all ones: adding the smallest step (FN) or the smallest
// exponent (IEEE) carries out of those codes alone, into a bit that is then spread to the top.
template <class T, int MANTISSA, int LOW, int HIGH> struct Placed;
template <int E, int M, Specials S, int MANTISSA, int LOW, int HIGH>
struct Placed<F<E, M, S>, MANTISSA, LOW, HIGH> {
  static constexpr int bias = (1 << (E - 1)) - 1;
  static constexpr bool has_specials = S != NONE && MANTISSA + E < 15;

  static FUNCTION uint32_t word(const uint32_t* words) {
    constexpr int N = 1 + E + M;
    using Fields = Halves<N, LOW, HIGH, 16 - N>;
    constexpr uint32_t size = both(((1u << (E + M)) - 1) << (MANTISSA - M));
    const uint32_t word = Fields::word(words);
    const uint32_t sign = shift_left<16 - N - Fields::place>(word) & both(0x8000);
    const uint32_t moved = shift_left<MANTISSA - M - Fields::place>(word);
    if constexpr (!has_specials) return and_xor(moved, size, sign);
    const uint32_t magnitude = moved & size;
    constexpr uint32_t step = both(1u << (S == FN ? MANTISSA - M : MANTISSA));
    const uint32_t carried = (magnitude + step) & both(1u << (MANTISSA + E));
    return magnitude | sign | ((carried << (15 - MANTISSA - E)) - carried);
  }
};
template <class T, int LOW, int HIGH> FUNCTION uint32_t lift_floats(const uint32_t* words) {
  return Placed<T, 10, LOW, HIGH>::word(words);
}

// A multiplication by a power of two corrects the bias, subnormals included.
template <class T, int LOW, int HIGH> FUNCTION uint32_t floats_to_f16(const uint32_t* words) {
  using P = Placed<T, 10, LOW, HIGH>;
  if constexpr (P::bias == 15) return P::word(words);
  else return mul_f16_pair(P::word(words), both(f16_power_of_two(15 - P::bias)));
}
template <class T, int LOW, int HIGH> FUNCTION uint32_t floats_to_bf16(const uint32_t* words) {
  using P = Placed<T, 7, LOW, HIGH>;
  const uint32_t minus_zero = both(0x8000);  // x + -0 is x, signed zeros included
  return fma_bf16_pair(P::word(words), both(bf16_power_of_two(127 - P::bias)), minus_zero);
}
// A float with float16's exponent, of which the largest means a number: infinity, where it is beyond.
template <class T, int LOW, int HIGH> FUNCTION uint32_t floats_bounded_to_f16(const uint32_t* words) {
  using P = Placed<T, 10, LOW, HIGH>;
  static_assert(P::bias == 15, "the exponent is that of a float16");
  return min_magnitude_f16_pair(P::word(words), both(0x7C00));
}
// Formats with a wider range than float16: exact in bfloat16, then rounded, to infinity beyond.
template <class T, int LOW, int HIGH> FUNCTION uint32_t floats_through_bf16(const uint32_t* words) {
  const uint32_t pair = floats_to_bf16<T, LOW, HIGH>(words);
  return f16_pair(as_float(pair << 16), as_float(pair & 0xFFFF0000u));
}

// Integers of up to 7 bits to bfloat16, as to float16; the subtraction is a fused multiply-add.
template <class T, int LOW, int HIGH, int SHIFT> FUNCTION uint32_t integers_to_bf16(const uint32_t* words) {
  using Fields = Halves<T::bits, LOW, HIGH, 0>;
  constexpr int p = Fields::place - SHIFT;
  constexpr uint32_t magic = bf16_power_of_two(7 - p), sign = Integer<T>::sign << p;
  constexpr uint32_t mask = both(((1u << T::bits) - 1) << p);
  const uint32_t mixed = and_xor(Fields::word(words) >> SHIFT, mask, both(magic ^ sign));
  return fma_bf16_pair(mixed, both(bf16_power_of_two(0)), both((magic + sign) | 0x8000));
}
// Bytes do not fit into the 7 bits of the mantissa, but into that of float32, whose upper half the
// exact result is.
template <class T> FUNCTION uint32_t byte_to_f32(uint32_t byte) {
  constexpr uint32_t sign = Integer<T>::sign;
  return as_bits(as_float(byte ^ (0x4B000000u ^ sign)) - (8388608.0f + (float)sign));
}
template <class T, int LOW, int HIGH> FUNCTION uint32_t bytes_to_bf16(const uint32_t* words) {
  const uint32_t low = byte_to_f32<T>(get_bits<LOW, 8>(words));
  return permute_bytes(low, byte_to_f32<T>(get_bits<HIGH, 8>(words)), 0x7632);
}

FUNCTION uint32_t join(const uint32_t* words, int low, int high) {
  const uint32_t first = words[low / 2] >> (low % 2 * 16) & 0xFFFF;
  return first | words[high / 2] >> (high % 2 * 16) << 16;
}
FUNCTION uint32_t byte_at(const uint32_t* words, int place) {
  return words[place / 4] >> (place % 4 * 8) & 0xFF;
}
FUNCTION uint32_t join_bytes(const uint32_t* words, int a, int b, int c, int d) {
  return byte_at(words, a) | byte_at(words, b) << 8 | byte_at(words, c) << 16 | byte_at(words, d) << 24;
}
FUNCTION uint32_t f32_to_f16_pair(uint32_t low, uint32_t high) {
  return f16_pair(as_float(low), as_float(high));
}
FUNCTION uint32_t f32_to_bf16_pair(uint32_t low, uint32_t high) {
  return f32_to_bf16(as_float(low)) | f32_to_bf16(as_float(high)) << 16;
}

// The N-bit fields at bits LOW and HIGH, each at the bottom of one of two neighbours: bytes, or the
// halves of a byte.
template <int N, int LOW, int HIGH> FUNCTION uint32_t neighbours(const uint32_t* words) {
  if constexpr (N == 8)
    return permute_bytes(words[LOW / 32], words[HIGH / 32],
                         LOW / 8 % 4 | (HIGH / 8 % 4 + 4) << 4 | 0x4400);
  else return get_bits<LOW, N>(words) | get_bits<HIGH, N>(words) << (N > 4 ? 8 : 4);
}
