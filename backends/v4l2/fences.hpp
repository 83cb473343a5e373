// Fences for V4L2, which has none: a buffer is queued only after the fences it came with have ended.
#pragma once

#include "device.hpp"
#include "log.hpp"

#include <dmaflow/fence.hpp>

namespace dmaflow::v4l2 {

/// The fence's state, without waiting. One system call for a fence that is active or has signalled. @p what: whose
/// fence, for the log.
inline Result<Fence::State> ended_as(const Fence& fence, const Device& device, const char* what) noexcept {
  const auto state = fence.state();
  if (!state || *state != Fence::State::failed) return state;
  const auto ended = fence.has_ended();  // one part may have failed while others are active
  if (!ended) return std::unexpected(ended.error());
  if (!*ended) return Fence::State::active;
  detail::log(LogLevel::warning, "%s: %s ended with an error", device.name().c_str(), what);
  return state;
}

}  // namespace dmaflow::v4l2
