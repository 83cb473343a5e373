#include <dmaflow/device.hpp>

#include <cerrno>
#include <cstdio>

namespace dmaflow {

std::string StreamConfig::describe() const {
  std::string text = layout.describe();
  if (interval.numerator != 0) {
    char rate[32];
    std::snprintf(rate, sizeof rate, " %.2f/s", static_cast<double>(interval.denominator) / interval.numerator);
    text += rate;
  }
  return text;
}

Result<void> Sink::start(std::span<const Buffer> buffers) {
  for (const Buffer& buffer : buffers) {
    if (auto imported = import(buffer); !imported) return imported;
  }
  return {};
}

Result<Frame> Sink::acquire_target() {
  return std::unexpected(Error::os(ENOTSUP, "Sink::acquire_target", name()).detail("it shows foreign buffers"));
}

}  // namespace dmaflow
