// Conversions of two floats of up to 8 bits to float16 by the chip itself (9.7.9.22, cvt).
#pragma once

template <class T> struct Converted;
#define CONVERTED(exponent, mantissa, specials, type)                                 \
  template <> struct Converted<F<exponent, mantissa, specials>> {                     \
    static FUNCTION uint32_t pair(uint32_t bytes) {                                   \
      uint32_t d;                                                                     \
      asm("cvt.rn.f16x2." type " %0, %1;" : "=r"(d) : "h"((uint16_t)bytes));          \
      return d;                                                                       \
    }                                                                                 \
  };
CONVERTED(4, 3, FN, "e4m3x2")
CONVERTED(5, 2, IEEE, "e5m2x2")
CONVERTED(3, 2, NONE, "e3m2x2")
CONVERTED(2, 3, NONE, "e2m3x2")
template <> struct Converted<F<2, 1, NONE>> {
  static FUNCTION uint32_t pair(uint32_t byte) {
    uint32_t d;
    asm("{\n\t.reg .b8 low, high;\n\tmov.b16 {low, high}, %1;\n\tcvt.rn.f16x2.e2m1x2 %0, low;\n\t}"
        : "=r"(d) : "h"((uint16_t)byte));
    return d;
  }
};

template <class T, int LOW, int HIGH> FUNCTION uint32_t converted_to_f16(const uint32_t* words) {
  return Converted<T>::pair(neighbours<T::bits, LOW, HIGH>(words));
}
