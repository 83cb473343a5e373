// Arithmetic on intervals: a frame's time as a fraction of a second.
#pragma once

#include <dmaflow/device.hpp>

#include <cmath>
#include <limits>
#include <numeric>

namespace dmaflow::v4l2 {

/// In lowest terms; 0/0 if either number is 0.
inline Interval reduced(std::uint64_t numerator, std::uint64_t denominator) noexcept {
  if (numerator == 0 || denominator == 0) return {};
  const std::uint64_t divisor = std::gcd(numerator, denominator);
  numerator /= divisor;
  denominator /= divisor;
  while (numerator > std::numeric_limits<std::uint32_t>::max() ||
         denominator > std::numeric_limits<std::uint32_t>::max()) {
    numerator /= 2;
    denominator /= 2;
  }
  return {static_cast<std::uint32_t>(numerator), static_cast<std::uint32_t>(denominator)};
}

/// Frames per second; 0 if the interval is not stated.
inline double rate(Interval interval) noexcept {
  return interval.numerator == 0 ? 0.0 : static_cast<double>(interval.denominator) / interval.numerator;
}

/// Equal within about a percent: 60/s and 59.94/s count as the same rate.
inline bool same_rate(Interval a, Interval b) noexcept { return std::abs(rate(a) - rate(b)) <= 0.01 * rate(b); }

/// Whether @p a is preferred to @p b if no rate was requested: the highest up to 60/s, else the lowest above.
inline bool better_rate(Interval a, Interval b) noexcept {
  constexpr double limit = 60.5;
  const double x = rate(a);
  const double y = rate(b);
  if (x <= limit && y <= limit) return x > y;
  return x < y;
}

}  // namespace dmaflow::v4l2
