// Clocks: the clock of a time stamp, and conversion of a time from one clock to another.
#pragma once

#include <dmaflow/error.hpp>

#include <chrono>
#include <cstdint>

namespace dmaflow {

/// What a time stamp counts from (clock_gettime(2), <linux/time.h>).
enum class Clock : std::uint8_t {
  unknown,    ///< not stated: it cannot be compared with anything
  monotonic,  ///< CLOCK_MONOTONIC: since the boot, without suspended time. Displays, deadlines and most cameras use
              ///< it.
  boottime,   ///< CLOCK_BOOTTIME: the same, with suspended time
  realtime,   ///< CLOCK_REALTIME: since 1970, UTC. It may be set, even backwards.
  tai,        ///< CLOCK_TAI: since 1970 without leap seconds; the kernel must know their number
  device,     ///< the device's own: only differences are meaningful
};

/// The time on @p clock now. Errors: EINVAL (unknown, device: this process cannot read them).
[[nodiscard]] Result<std::chrono::nanoseconds> time_on(Clock clock);

/// The moment that is @p time on clock @p from, as a time on clock @p to. It reads both clocks and assumes that they
/// have run in parallel since that moment. So the result is exact to less than a microsecond if the machine has not
/// been suspended (monotonic against the others) and the clock has not been set or adjusted (realtime, tai) since that
/// moment; otherwise it is wrong by the time of the suspend or of the adjustment. If both clocks are the same, it
/// returns @p time without reading them. No allocation; four calls of the vDSO. Errors: EINVAL (unknown, device).
[[nodiscard]] Result<std::chrono::nanoseconds> convert_time(std::chrono::nanoseconds time, Clock from, Clock to);

}  // namespace dmaflow
