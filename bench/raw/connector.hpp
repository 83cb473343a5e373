// Reading process events in raw system calls, as an expert would write it in C: descriptors have no owners, calls do
// not go through a seam, and everything is inlined into the program. It checks what the library checks: the sender,
// every length, the id.
#pragma once

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

namespace raw {

constexpr std::size_t offset_of_message = sizeof(nlmsghdr);
constexpr std::size_t offset_of_event = offset_of_message + sizeof(cn_msg);

/// A socket in group 1 that has sent LISTEN in the four-byte form that every kernel knows, or -errno. @p
/// receive_buffer: in bytes as the kernel counts them; 0 keeps the default.
inline int listen_to_processes(int receive_buffer) noexcept {
  const int fd = ::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_CONNECTOR);
  if (fd < 0) return -errno;
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = CN_IDX_PROC;
  bool good = ::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  const int half = receive_buffer / 2;
  good = good && (receive_buffer == 0 || ::setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &half, sizeof half) == 0);

  std::array<std::byte, offset_of_event + sizeof(__u32)> request{};
  const nlmsghdr header{
      .nlmsg_len = request.size(), .nlmsg_type = NLMSG_DONE, .nlmsg_flags = 0, .nlmsg_seq = 0, .nlmsg_pid = 0};
  const cb_id id{.idx = CN_IDX_PROC, .val = CN_VAL_PROC};
  const __u16 length = sizeof(__u32);
  const __u32 listen = PROC_CN_MCAST_LISTEN;
  std::memcpy(request.data(), &header, sizeof header);
  std::memcpy(request.data() + offset_of_message, &id, sizeof id);
  std::memcpy(request.data() + offset_of_message + offsetof(cn_msg, len), &length, sizeof length);
  std::memcpy(request.data() + offset_of_event, &listen, sizeof listen);
  good = good && ::send(fd, request.data(), request.size(), 0) == static_cast<ssize_t>(request.size());
  if (good) return fd;
  const int error = errno;
  ::close(fd);
  return -error;
}

/// Filters out all events except those of @p mask.
inline int keep_only(int fd, std::uint32_t mask) noexcept {
  std::array<sock_filter, 4> program{sock_filter{BPF_LD | BPF_W | BPF_ABS, 0, 0, offset_of_event},
                                     sock_filter{BPF_JMP | BPF_JSET | BPF_K, 1, 0, __builtin_bswap32(mask)},
                                     sock_filter{BPF_RET | BPF_K, 0, 0, 0},
                                     sock_filter{BPF_RET | BPF_K, 0, 0, 0xffffffff}};
  const sock_fprog filter{.len = program.size(), .filter = program.data()};
  return ::setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) == 0 ? 0 : -errno;
}

/// Decodes the event in a datagram. False if it is no event or does not come from the kernel.
inline bool decode(const std::byte* datagram, std::size_t size, const sockaddr_nl& from, proc_event& event) noexcept {
  if (from.nl_pid != 0 || size < offset_of_event) return false;
  nlmsghdr header{};
  cb_id id{};
  __u16 length = 0;
  std::memcpy(&header, datagram, sizeof header);
  std::memcpy(&id, datagram + offset_of_message, sizeof id);
  std::memcpy(&length, datagram + offset_of_message + offsetof(cn_msg, len), sizeof length);
  if (header.nlmsg_len > size || id.idx != CN_IDX_PROC || id.val != CN_VAL_PROC) return false;
  if (offset_of_event + length > size || length < sizeof event) return false;
  std::memcpy(&event, datagram + offset_of_event, sizeof event);
  return true;
}

/// The kernel's count of the messages that the socket lost.
inline std::uint32_t drops(int fd) noexcept {
  std::array<std::uint32_t, SK_MEMINFO_VARS> info{};
  socklen_t size = sizeof info;
  ::getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info.data(), &size);
  return info[SK_MEMINFO_DROPS];
}

/// The plain loop: one call for each event. Passes each event to @p handle; returns at EAGAIN (no event is queued, or
/// SO_RCVTIMEO has passed), or when @p handle returns false. Adds to @p calls.
template <typename Handle>
void receive_each(int fd, std::uint64_t& calls, Handle handle) noexcept {
  alignas(8) std::array<std::byte, 128> datagram{};
  proc_event event{};
  while (true) {
    sockaddr_nl from{};
    socklen_t length = sizeof from;
    ++calls;
    const ssize_t size =
        ::recvfrom(fd, datagram.data(), datagram.size(), 0, reinterpret_cast<sockaddr*>(&from), &length);
    if (size < 0 && (errno == ENOBUFS || errno == EINTR)) continue;  // losses are counted at the end
    if (size < 0) return;
    if (decode(datagram.data(), static_cast<std::size_t>(size), from, event) && !handle(event)) return;
  }
}

/// The same with 256 events for each call.
class ManyReceiver {
 public:
  ManyReceiver() noexcept {
    for (std::size_t i = 0; i < many; ++i) {
      parts_[i] = {.iov_base = datagrams_[i].data(), .iov_len = datagrams_[i].size()};
      headers_[i] = {};
      headers_[i].msg_hdr.msg_iov = &parts_[i];
      headers_[i].msg_hdr.msg_iovlen = 1;
      headers_[i].msg_hdr.msg_name = &addresses_[i];
      headers_[i].msg_hdr.msg_namelen = sizeof(sockaddr_nl);
    }
  }
  template <typename Handle>
  void receive(int fd, std::uint64_t& calls, Handle handle) noexcept {
    proc_event event{};
    while (true) {
      ++calls;
      const int got = ::recvmmsg(fd, headers_.data(), many, MSG_DONTWAIT, nullptr);
      if (got < 0 && (errno == ENOBUFS || errno == EINTR)) continue;
      if (got <= 0) return;
      for (std::size_t i = 0; i < static_cast<std::size_t>(got); ++i) {
        if (decode(datagrams_[i].data(), headers_[i].msg_len, addresses_[i], event) && !handle(event)) return;
      }
    }
  }

 private:
  static constexpr std::size_t many = 256;
  std::array<std::array<std::byte, 128>, many> datagrams_{};
  std::array<sockaddr_nl, many> addresses_{};
  std::array<iovec, many> parts_{};
  std::array<mmsghdr, many> headers_{};
};

}  // namespace raw
