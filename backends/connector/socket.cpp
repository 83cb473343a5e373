#include "socket.hpp"

#include "sys/sys.hpp"

#include <dmaflow/connector_socket.hpp>

#include <algorithm>
#include <array>
#include <cerrno>

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <sys/socket.h>

namespace dmaflow::connector {

Error failure(int code, const char* operation) noexcept { return Error::os(code, operation, device_name); }

namespace {

Result<void> outcome(int result, const char* operation) {
  if (result < 0) return std::unexpected(failure(result, operation));
  return {};
}

/// The kernel treats group 0 and groups over 32 specially.
Result<void> check_group(std::uint32_t group, const char* operation) {
  if (group >= 1 && group <= 32) return {};
  return std::unexpected(failure(EINVAL, operation).detail("there is no group %u: groups are 1 to 32", group));
}

Result<void> set_membership(int fd, int option, std::uint32_t group, const char* operation) {
  if (auto checked = check_group(group, operation); !checked) return checked;
  const int value = static_cast<int>(group);
  const int result = sys::setsockopt(fd, SOL_NETLINK, option, &value, sizeof value);
  if (result == -EPERM) {
    return std::unexpected(
        failure(EPERM, operation)
            .detail("group %u needs CAP_NET_ADMIN%s: run as root, or adopt a socket that a broker with the privilege "
                    "opened and joined",
                    group, group == 1 ? " before kernel 6.6" : ""));
  }
  return outcome(result, operation);
}

}  // namespace

Result<MemoryInfo> memory_info(int fd) noexcept {
  std::array<std::uint32_t, SK_MEMINFO_VARS> values{};
  const int size = sys::getsockopt(fd, SOL_SOCKET, SO_MEMINFO, values.data(), sizeof values);
  if (size < 0) return std::unexpected(failure(size, "getsockopt(SO_MEMINFO)"));
  return MemoryInfo{.queued = values[SK_MEMINFO_RMEM_ALLOC],
                    .receive_buffer = values[SK_MEMINFO_RCVBUF],
                    .drops = values[SK_MEMINFO_DROPS]};
}

Result<Socket> Socket::open() {
  const int number = sys::socket(AF_NETLINK, SOCK_DGRAM | SOCK_NONBLOCK, NETLINK_CONNECTOR);
  if (number < 0) {
    Error error = failure(number, "socket");
    if (number == -EPROTONOSUPPORT) error.detail("this kernel has no connector: it needs CONFIG_CONNECTOR");
    return std::unexpected(error);
  }
  Socket socket(Fd::adopt(number));
  // The kernel chooses the port: our pid may be in use as a port, for example by another socket of this process.
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  if (auto bound = outcome(sys::bind(number, &address, sizeof address), "bind"); !bound) {
    return std::unexpected(bound.error());
  }
  return socket;
}

Result<Socket> Socket::adopt(Fd& fd) {
  if (!fd) return std::unexpected(failure(EBADF, "adopt").detail("there is no descriptor"));
  for (const auto& [option, wanted] : {std::pair{SO_DOMAIN, AF_NETLINK}, std::pair{SO_PROTOCOL, NETLINK_CONNECTOR}}) {
    int value = 0;
    const int result = sys::getsockopt(fd.get(), SOL_SOCKET, option, &value, sizeof value);
    if (result == -EBADF) return std::unexpected(failure(result, "adopt"));
    if (result < 0 || value != wanted) {
      return std::unexpected(failure(EINVAL, "adopt").detail("descriptor %d is no socket of the connector", fd.get()));
    }
  }
  const int flags = sys::fcntl(fd.get(), F_GETFL, 0);
  if (flags < 0) return std::unexpected(failure(flags, "fcntl(F_GETFL)"));
  if (const int result = sys::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK); result < 0) {
    return std::unexpected(failure(result, "fcntl(F_SETFL)"));
  }
  if (const int result = sys::fcntl(fd.get(), F_SETFD, FD_CLOEXEC); result < 0) {
    return std::unexpected(failure(result, "fcntl(F_SETFD)"));
  }
  const int off = 0;
  if (const int result = sys::setsockopt(fd.get(), SOL_NETLINK, NETLINK_NO_ENOBUFS, &off, sizeof off); result < 0) {
    return std::unexpected(failure(result, "setsockopt(NETLINK_NO_ENOBUFS)"));
  }
  return Socket(std::move(fd));
}

Result<void> Socket::join(std::uint32_t group) {
  return set_membership(fd_.get(), NETLINK_ADD_MEMBERSHIP, group, "setsockopt(NETLINK_ADD_MEMBERSHIP)");
}

Result<void> Socket::leave(std::uint32_t group) {
  return set_membership(fd_.get(), NETLINK_DROP_MEMBERSHIP, group, "setsockopt(NETLINK_DROP_MEMBERSHIP)");
}

Result<ReceiveBuffer> Socket::set_receive_buffer(std::uint32_t bytes) {
  constexpr std::uint32_t most = 1U << 30U;
  if (bytes == 0 || bytes > most) {
    return std::unexpected(
        failure(EINVAL, "set_receive_buffer").detail("%u bytes asked for, 1 to %u allowed", bytes, most));
  }
  // The kernel doubles the requested size, to cover its own bookkeeping, and counts in the doubled bytes.
  const int value = static_cast<int>((bytes + 1) / 2);
  if (const int forced = sys::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &value, sizeof value); forced < 0) {
    if (forced != -EPERM) return std::unexpected(failure(forced, "setsockopt(SO_RCVBUFFORCE)"));
    const int result = sys::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUF, &value, sizeof value);
    if (result < 0) return std::unexpected(failure(result, "setsockopt(SO_RCVBUF)"));
  }
  const auto effective = receive_buffer();
  if (!effective) return std::unexpected(effective.error());
  return ReceiveBuffer{.bytes = *effective, .is_as_asked = *effective >= bytes};
}

Result<std::uint32_t> Socket::receive_buffer() const {
  const auto info = memory_info(fd_.get());
  if (!info) return std::unexpected(info.error());
  return info->receive_buffer;
}

Result<std::uint32_t> Socket::drops() const {
  const auto info = memory_info(fd_.get());
  if (!info) return std::unexpected(info.error());
  return info->drops;
}

Result<void> Socket::set_filter(std::span<const sock_filter> program) {
  if (program.empty()) {
    const int none = 0;
    const int result = sys::setsockopt(fd_.get(), SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof none);
    return outcome(result == -ENOENT ? 0 : result, "setsockopt(SO_DETACH_FILTER)");
  }
  if (program.size() > BPF_MAXINSNS) {
    return std::unexpected(failure(EINVAL, "setsockopt(SO_ATTACH_FILTER)").detail("more than 4096 instructions"));
  }
  // The kernel copies the program; its structure is not const.
  const sock_fprog filter{.len = static_cast<unsigned short>(program.size()),
                          .filter = const_cast<sock_filter*>(program.data())};
  return outcome(sys::setsockopt(fd_.get(), SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter),
                 "setsockopt(SO_ATTACH_FILTER)");
}

}  // namespace dmaflow::connector
