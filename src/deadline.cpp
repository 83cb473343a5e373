#include <dmaflow/deadline.hpp>

namespace dmaflow {

Deadline::Clock::duration Deadline::remaining() const noexcept {
  const auto now = Clock::now();
  // Compared, not subtracted: immediate() is so far in the past that the difference would overflow.
  return point_ > now ? point_ - now : Clock::duration::zero();
}

}  // namespace dmaflow
