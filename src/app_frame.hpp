// What a frame of the program's has in common, whoever made its memory.
#pragma once

#include <dmaflow/deadline.hpp>
#include <dmaflow/frame.hpp>

#include <cstdint>

namespace dmaflow::detail {

/// Fills in what the program left out: its number, the time where it gave no clock, and that all of the buffer is used.
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
