// The seam's wait, with a switch that ends it: every blocking wait of the library uses it.
#pragma once

#include "sys/sys.hpp"

#include <dmaflow/cancel.hpp>
#include <dmaflow/deadline.hpp>

namespace dmaflow::detail {

/// As sys::wait(), and -ECANCELED once @p cancel is set and nothing else is ready. Null: cannot be cancelled.
[[nodiscard]] int wait(int fd, short events, Deadline deadline, const Cancel* cancel) noexcept;

}  // namespace dmaflow::detail
