#include <dmaflow/deadline.hpp>

namespace dmaflow {

Deadline::Clock::duration Deadline::remaining() const noexcept {
  const auto now = Clock::now();
  // Compared, not subtracted: passed() lies so far back that the difference would overflow.
  return point_ > now ? point_ - now : Clock::duration::zero();
}

timespec Deadline::remaining_timespec() const noexcept {
  const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(remaining());
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
  timespec result{};
  result.tv_sec = seconds.count();
  result.tv_nsec = (left - seconds).count();
  return result;
}

}  // namespace dmaflow
