// The socket of the Kernel Connector: groups, the receive buffer, losses, filters. For programs that need no more than
// that; connector.hpp is built on it.
//
// What a process may do depends on the kernel, its privilege and its namespaces, and is found by trying: groups need
// CAP_NET_ADMIN, except process events since kernel 6.6; the connector exists only in the first network namespace. In
// others everything except sending succeeds, but no messages arrive.
#pragma once

#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>

#include <cstdint>
#include <span>

struct sock_filter;  // NOLINT(readability-identifier-naming): linux/filter.h's name

namespace dmaflow::connector {

/// Space for messages that arrived and were not read yet.
struct ReceiveBuffer {
  std::uint32_t bytes = 0;  ///< the actual size, counted as the kernel counts (832 bytes for each process event)
  bool is_as_asked = true;  ///< false: the system's limit (net.core.rmem_max) reduced it: CAP_NET_ADMIN is missing
};

/// Owns one NETLINK_CONNECTOR socket: CLOEXEC, nonblocking, with a port that the kernel chose. Move-only; not
/// synchronised, but one thread may send on a socket while another receives.
class Socket {
 public:
  Socket() = default;
  /// Errors: EPROTONOSUPPORT (a kernel without CONFIG_CONNECTOR; the detail says so), EMFILE, ENFILE, ENOMEM.
  [[nodiscard]] static Result<Socket> open();
  /// Takes a socket that was opened, and possibly joined to groups, elsewhere: by a broker with the privilege, or in
  /// the host's network namespace. It becomes nonblocking and CLOEXEC, and reports losses (NETLINK_NO_ENOBUFS off);
  /// earlier losses count as seen. On an error the caller keeps it. Errors: EBADF, EINVAL (not a socket of the
  /// connector).
  [[nodiscard]] static Result<Socket> adopt(Fd& fd);

  /// Joins a multicast group. @p group: 1 to 32, the idx of a CbId. Joining twice is the same as joining once.
  /// Errors: EINVAL (no such group), EPERM (privilege; the detail says which helps).
  [[nodiscard]] Result<void> join(std::uint32_t group);
  /// Errors: EINVAL (no such group).
  [[nodiscard]] Result<void> leave(std::uint32_t group);

  /// Asks for a receive buffer of @p bytes: 1 to 1 GiB, as the kernel counts. First with the privilege to exceed
  /// net.core.rmem_max, then without. Returns the result; a smaller buffer is no error. Errors: EINVAL (out of range).
  [[nodiscard]] Result<ReceiveBuffer> set_receive_buffer(std::uint32_t bytes);
  [[nodiscard]] Result<std::uint32_t> receive_buffer() const;

  /// Messages that the kernel dropped on this socket since it was opened (modulo 2^32): exact. One system call.
  [[nodiscard]] Result<std::uint32_t> drops() const;

  /// A classic BPF program that sees each datagram from its nlmsghdr on; datagrams that it refuses are never queued,
  /// and not counted as lost. It replaces an earlier program; an empty one removes it. Errors: EINVAL (the kernel
  /// refuses the program).
  [[nodiscard]] Result<void> set_filter(std::span<const sock_filter> program);

  /// Readable (POLLIN) if a message arrived, POLLERR if messages were lost. Owned by this object.
  [[nodiscard]] int poll_fd() const noexcept { return fd_.get(); }
  /// Gives up the descriptor, for example to pass it to another process.
  [[nodiscard]] Fd release() noexcept { return std::move(fd_); }

 private:
  explicit Socket(Fd fd) noexcept : fd_(std::move(fd)) {}
  Fd fd_;
};

}  // namespace dmaflow::connector
