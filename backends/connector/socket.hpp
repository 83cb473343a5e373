// What the parts of this backend use of a socket beyond its public interface.
#pragma once

#include <dmaflow/connector_socket.hpp>

#include <cstdint>

namespace dmaflow::connector {

inline constexpr const char* device_name = "kernel connector";

/// An Error of this backend. @p code: errno or -errno.
[[nodiscard]] Error failure(int code, const char* operation) noexcept;

/// SO_MEMINFO: the socket's memory, in the kernel's own accounting.
struct MemoryInfo {
  std::uint32_t queued;          ///< bytes waiting to be read
  std::uint32_t receive_buffer;  ///< bytes
  std::uint32_t drops;           ///< messages, modulo 2^32
};
[[nodiscard]] Result<MemoryInfo> memory_info(int fd) noexcept;

}  // namespace dmaflow::connector
