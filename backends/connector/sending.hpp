// Messages to the kernel.
#pragma once

#include <dmaflow/connector.hpp>

#include <cstddef>
#include <span>

namespace dmaflow::connector {

/// Checks all messages, then sends them, many with one system call. Returns how many were sent; an error if not even
/// the first was.
[[nodiscard]] Result<std::size_t> send_messages(int fd, std::span<const Outgoing> messages);

}  // namespace dmaflow::connector
