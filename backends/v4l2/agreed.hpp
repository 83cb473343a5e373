// Agreed: the settings a device was given for a stream, and whether it still has them.
//
// The settings of a V4L2 device belong to the device, not to the program that made them: any program may change the
// format until the queue has slots (from then on videobuf2 is busy, and S_FMT fails with EBUSY), and the rectangles
// even later. So the driver's settings are compared with the agreed ones after every REQBUFS, before the first QBUF.
#pragma once

#include "queue.hpp"

#include <dmaflow/device.hpp>

#include <cstdint>
#include <optional>

namespace dmaflow::v4l2 {

struct Agreed {
  StreamFormat format;                ///< as G_FMT returns it
  std::optional<std::uint32_t> port;  ///< nullopt if the device has no choice
  std::optional<Rect> crop;           ///< cameras only; nullopt if not supported
  std::optional<Rect> compose;

  /// The device's current format and port.
  static Result<Agreed> read(const Device& device) noexcept;
  /// Reads only the rectangles.
  void read_rectangles(const Device& device) noexcept;
  /// EBUSY, with both in the detail, if the device now has another format, colour or port.
  [[nodiscard]] Result<void> check(const Device& device) const;
  /// Sets crop and compose again if the device now has others; allowed while the queue has slots. EBUSY, with both in
  /// the detail, if they still differ after that.
  [[nodiscard]] Result<void> restore_rectangles(const Device& device) const;
};

/// Queue::request() for a stream that was agreed on: if the device now has other settings, they are set again once.
/// Errors: those of Queue::request(); EBUSY if the settings still differ after that, or another program is streaming.
/// On an error the queue has no slots.
Result<std::uint32_t> request_as_agreed(const Device& device, Queue& queue, const Agreed& agreed, std::uint32_t memory,
                                        std::uint32_t count);

/// Sets the interval @p agreed again if the device now has another. Returns the interval that the device chose.
Interval restore_interval(const Device& device, Interval agreed) noexcept;

}  // namespace dmaflow::v4l2
