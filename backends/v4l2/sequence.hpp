// Sequence: V4L2 counts frames in 32 bits; dmaflow in 64.
#pragma once

#include <cstdint>

namespace dmaflow::v4l2 {

/// Continues a 32-bit count over its wrap. It never falls: where a driver's count steps back, it stays, and goes on
/// from there.
class Sequence {
 public:
  std::uint64_t extend(std::uint32_t count) noexcept {
    if (first_) {
      value_ = count;
    } else if (const auto step = static_cast<std::int32_t>(count - last_); step > 0) {
      value_ += static_cast<std::uint64_t>(step);
    }
    first_ = false;
    last_ = count;
    return value_;
  }
  void reset() noexcept { *this = {}; }

 private:
  std::uint64_t value_ = 0;
  std::uint32_t last_ = 0;
  bool first_ = true;
};

}  // namespace dmaflow::v4l2
