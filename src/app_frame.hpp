// Shared by the sources of the program's own frames, no matter who allocated the memory.
#pragma once

#include <dmaflow/deadline.hpp>
#include <dmaflow/frame.hpp>

#include <cstdint>

namespace dmaflow::detail {

/// Sets the sequence number and fills in what the program left out: the time if it gave no clock, and the whole buffer
/// if it gave no visible part.
inline void complete(FrameInfo& info, const Buffer& buffer, std::uint64_t sequence) noexcept {
  info.sequence = sequence;
  if (info.clock == Clock::unknown) {
    info.clock = Clock::monotonic;
    info.timestamp = Deadline::Clock::now().time_since_epoch();
  }
  const Size size = buffer.layout().size;
  if (info.visible == Rect{}) info.visible = {.x = 0, .y = 0, .width = size.width, .height = size.height};
}

}  // namespace dmaflow::detail
