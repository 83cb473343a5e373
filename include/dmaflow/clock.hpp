// Clocks: which one a time stamp was read from, and what the same moment is on another.
#pragma once

#include <dmaflow/error.hpp>

#include <chrono>
#include <cstdint>

namespace dmaflow {

/// What a time stamp counts from (clock_gettime(2), <linux/time.h>).
enum class Clock : std::uint8_t {
  unknown,    ///< not said: it cannot be compared with anything
  monotonic,  ///< CLOCK_MONOTONIC: since the boot, without the time asleep. Displays, deadlines and most cameras use
              ///< it.
  boottime,   ///< CLOCK_BOOTTIME: the same, with the time asleep
  realtime,   ///< CLOCK_REALTIME: since 1970, UTC. It may be set, also backwards.
  tai,        ///< CLOCK_TAI: since 1970 without leap seconds; the kernel must have been told their number
  device,     ///< the device's own: only differences have a meaning
};

/// The time on @p clock now. Errors: EINVAL (unknown, device: this process cannot read them).
[[nodiscard]] Result<std::chrono::nanoseconds> time_on(Clock clock);

/// The moment that is @p time on clock @p from, as a time on clock @p to. It reads both clocks and assumes that they
/// have run side by side since that moment. So it is exact to less than a microsecond for moments since the last time
/// the machine slept (monotonic against the others) or its clock was set or adjusted (realtime, tai), and wrong by as
/// much for those before it. One clock given twice returns @p time without a look. No allocation; four calls of the
/// vDSO. Errors: EINVAL (unknown, device).
[[nodiscard]] Result<std::chrono::nanoseconds> convert_time(std::chrono::nanoseconds time, Clock from, Clock to);

}  // namespace dmaflow
