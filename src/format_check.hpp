// Shared by the sinks that take a list of formats.
#pragma once

#include <dmaflow/error.hpp>
#include <dmaflow/format.hpp>

#include <algorithm>
#include <cerrno>
#include <span>
#include <string>
#include <string_view>

namespace dmaflow::detail {

/// EINVAL, with the accepted formats in the detail, if @p format is not in @p takes. An empty list accepts any.
[[nodiscard]] inline Result<void> check_format(PixelFormat format, std::span<const PixelFormat> takes,
                                               std::string_view who) {
  if (takes.empty() || std::ranges::find(takes, format) != takes.end()) return {};
  std::string names;
  for (const PixelFormat one : takes) names += (names.empty() ? "" : " ") + one.name();
  return std::unexpected(
      Error::os(EINVAL, "check", who).detail("%s: it takes %s", format.name().c_str(), names.c_str()));
}

}  // namespace dmaflow::detail
