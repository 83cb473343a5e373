// What sinks that take a list of formats share.
#pragma once

#include <dmaflow/error.hpp>
#include <dmaflow/format.hpp>

#include <algorithm>
#include <cerrno>
#include <span>
#include <string>
#include <string_view>

namespace dmaflow::detail {

/// EINVAL, with those it takes, where @p format is not in @p takes. An empty list takes any.
[[nodiscard]] inline Result<void> check_format(PixelFormat format, std::span<const PixelFormat> takes,
                                               std::string_view who) {
  if (takes.empty() || std::ranges::find(takes, format) != takes.end()) return {};
  std::string names;
  for (const PixelFormat one : takes) names += (names.empty() ? "" : " ") + one.name();
  return std::unexpected(
      Error::os(EINVAL, "check", who).detail("%s: it takes %s", format.name().c_str(), names.c_str()));
}

}  // namespace dmaflow::detail
