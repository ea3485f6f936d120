// Conversions of two floats of up to 8 bits to float16, by their value.
#pragma once

template <class T, int LOW, int HIGH> inline uint32_t converted_to_f16(const uint32_t* words) {
  constexpr int next = T::bits > 4 ? 8 : 4;
  const uint32_t both = neighbours<T::bits, LOW, HIGH>(words);
  const float low = Element<T>::value(both & ((1u << T::bits) - 1));
  return f16_pair(low, Element<T>::value(both >> next & ((1u << T::bits) - 1)));
}
