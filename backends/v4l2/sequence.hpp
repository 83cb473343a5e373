// Sequence: extends V4L2's 32-bit frame counts to dmaflow's 64 bits.
#pragma once

#include <cstdint>

namespace dmaflow::v4l2 {

/// Continues a 32-bit count when it wraps. The result never decreases: if a driver's count steps back, the result stays
/// the same, and later steps are added to it.
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
