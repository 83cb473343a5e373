#include <dmaflow/clock.hpp>

#include <cerrno>
#include <ctime>
#include <optional>

namespace dmaflow {
namespace {

using std::chrono::nanoseconds;

std::optional<clockid_t> id_of(Clock clock) noexcept {
  switch (clock) {
    case Clock::monotonic:
      return CLOCK_MONOTONIC;
    case Clock::boottime:
      return CLOCK_BOOTTIME;
    case Clock::realtime:
      return CLOCK_REALTIME;
    case Clock::tai:
      return CLOCK_TAI;
    case Clock::unknown:
    case Clock::device:
      break;
  }
  return std::nullopt;
}

const char* name_of(Clock clock) noexcept { return clock == Clock::device ? "a device's own" : "an unknown one"; }

nanoseconds read(clockid_t id) noexcept {
  timespec now{};
  ::clock_gettime(id, &now);  // cannot fail for these
  return std::chrono::seconds(now.tv_sec) + nanoseconds(now.tv_nsec);
}

}  // namespace

Result<nanoseconds> time_on(Clock clock) {
  const auto id = id_of(clock);
  if (!id)
    return std::unexpected(Error::os(EINVAL, "time_on").detail("the clock is %s: it cannot be read", name_of(clock)));
  return read(*id);
}

Result<nanoseconds> convert_time(nanoseconds time, Clock from, Clock to) {
  const auto from_id = id_of(from);
  const auto to_id = id_of(to);
  if (!from_id || !to_id) {
    return std::unexpected(Error::os(EINVAL, "convert_time")
                               .detail("one of the clocks is %s: it cannot be read", name_of(from_id ? to : from)));
  }
  if (from == to) return time;
  // One clock is read between two readings of the other. If these are far apart, the thread was interrupted: try again.
  nanoseconds offset{0};
  nanoseconds apart = nanoseconds::max();
  for (int look = 0; look < 3 && apart > std::chrono::microseconds(1); ++look) {
    const nanoseconds before = read(*from_id);
    const nanoseconds there = read(*to_id);
    const nanoseconds after = read(*from_id);
    if (after - before >= apart || after < before) continue;
    apart = after - before;
    offset = there - (before + apart / 2);
  }
  return time + offset;
}

}  // namespace dmaflow
