// Messages to the kernel.
#pragma once

#include <dmaflow/connector.hpp>

#include <cstddef>
#include <span>

namespace dmaflow::connector {

/// Checks all, then sends them, many with one system call. Says how many went; an error where not even the first did.
[[nodiscard]] Result<std::size_t> send_messages(int fd, std::span<const Outgoing> messages);

}  // namespace dmaflow::connector
