// The library's own side of the log hook. Formatting happens only when a hook is set.
#pragma once

#include <dmaflow/log.hpp>

namespace dmaflow::detail {

[[gnu::format(printf, 2, 3)]] void log(LogLevel level, const char* format, ...) noexcept;

}  // namespace dmaflow::detail
