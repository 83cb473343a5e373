// Sequence: V4L2 counts frames in 32 bits; dmaflow in 64.
#pragma once

#include <cstdint>

namespace dmaflow::v4l2 {

/// Continues a 32-bit count over its wrap. A count that steps back (a driver that repeats one) steps back here too.
class Sequence {
 public:
  std::uint64_t extend(std::uint32_t count) noexcept {
    if (first_) {
      value_ = count;
      first_ = false;
      return value_;
    }
    const auto step = static_cast<std::int32_t>(count - static_cast<std::uint32_t>(value_));
    const auto next = static_cast<std::int64_t>(value_) + step;
    value_ = next < 0 ? count : static_cast<std::uint64_t>(next);
    return value_;
  }
  void reset() noexcept { *this = {}; }

 private:
  std::uint64_t value_ = 0;
  bool first_ = true;
};

}  // namespace dmaflow::v4l2
