// Ctrl-C as a descriptor to wait for, instead of a signal handler.
#pragma once

#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>

namespace dmaflow {

/// A descriptor that becomes readable when the process is sent SIGINT, SIGTERM or SIGHUP. Blocks these signals in the
/// calling thread and in those it starts later, so call it first in main(). Give it to RunOptions::stop_fd.
/// Errors: EMFILE and others of signalfd.
[[nodiscard]] Result<Fd> stop_on_signals();

}  // namespace dmaflow
