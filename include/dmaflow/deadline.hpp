// Every wait in dmaflow ends: it takes a Deadline, a point on the monotonic clock.
#pragma once

#include <dmaflow/cpp23.hpp>

#include <chrono>

namespace dmaflow {

/// A point on CLOCK_MONOTONIC after which a wait gives up with ETIMEDOUT. A value; free to copy.
class Deadline {
 public:
  using Clock = std::chrono::steady_clock;

  /// @p span from now, however long; a negative span has already passed.
  static Deadline after(Clock::duration span) noexcept {
    const auto now = Clock::now();
    return Deadline(span < Clock::time_point::max() - now ? now + span : Clock::time_point::max());
  }
  static Deadline at(Clock::time_point point) noexcept { return Deadline(point); }
  /// Already passed: a wait with it only checks and never sleeps.
  static Deadline immediate() noexcept { return Deadline(Clock::time_point::min()); }

  [[nodiscard]] Clock::time_point time() const noexcept { return point_; }
  /// Time left; never negative.
  [[nodiscard]] Clock::duration remaining() const noexcept;

 private:
  explicit Deadline(Clock::time_point point) noexcept : point_(point) {}
  Clock::time_point point_;
};

}  // namespace dmaflow
