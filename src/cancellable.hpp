// sys::wait() that a Cancel can end. Every blocking wait of the library uses it.
#pragma once

#include "sys/sys.hpp"

#include <dmaflow/cancel.hpp>
#include <dmaflow/deadline.hpp>

namespace dmaflow::detail {

/// Like sys::wait(), but returns -ECANCELED once @p cancel is set and nothing else is ready. If @p cancel is null, the
/// wait cannot be cancelled.
[[nodiscard]] int wait(int fd, short events, Deadline deadline, const Cancel* cancel) noexcept;

}  // namespace dmaflow::detail
