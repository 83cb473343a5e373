// Agreed: what a device was set to for a stream, and whether it still is.
//
// The settings of a V4L2 device belong to the device, not to who set them: any program may change the format until the
// queue has slots (videobuf2 is busy from then on, and S_FMT fails with EBUSY), and the rectangles even later. So what
// the driver has is compared with what was agreed after every REQBUFS, before the first QBUF.
#pragma once

#include "queue.hpp"

#include <dmaflow/device.hpp>

#include <cstdint>
#include <optional>

namespace dmaflow::v4l2 {

struct Agreed {
  StreamFormat format;                ///< as G_FMT gives it
  std::optional<std::uint32_t> port;  ///< nothing where the device has no choice
  std::optional<Rect> crop;           ///< cameras only; nothing where the device cannot
  std::optional<Rect> compose;

  /// What the device is set to now.
  static Result<Agreed> read(const Device& device) noexcept;
  /// Only the rectangles.
  void read_rectangles(const Device& device) noexcept;
  /// EBUSY, with both in the detail, where the device has another format, colour or port by now.
  [[nodiscard]] Result<void> check(const Device& device) const;
  /// Sets crop and compose again where the device has others by now; may be done while the queue has slots. EBUSY, with
  /// both in the detail, where it then still has others.
  [[nodiscard]] Result<void> restore_rectangles(const Device& device) const;
};

/// Queue::request() for a stream that was agreed on: where the device has other settings by now, they are set again
/// once. Errors: those of Queue::request(); EBUSY, where the device then still has others, or somebody else streams. On
/// an error the queue has no slots.
Result<std::uint32_t> request_as_agreed(const Device& device, Queue& queue, const Agreed& agreed, std::uint32_t memory,
                                        std::uint32_t count);

/// Sets the interval of @p config again, where the device has another by now. Returns what the device made of it.
Interval restore_interval(const Device& device, Interval agreed) noexcept;

}  // namespace dmaflow::v4l2
