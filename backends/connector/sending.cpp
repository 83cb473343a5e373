#include "sending.hpp"

#include "socket.hpp"
#include "sys/sys.hpp"

#include <algorithm>
#include <array>
#include <cerrno>

#include <linux/connector.h>
#include <linux/netlink.h>
#include <sys/socket.h>

namespace dmaflow::connector {
namespace {

/// A message as the kernel reads it, before its payload.
struct Head {
  nlmsghdr netlink{};
  cb_id id{};
  __u32 seq = 0;
  __u32 ack = 0;
  __u16 len = 0;
  __u16 flags = 0;
};
static_assert(sizeof(Head) == sizeof(nlmsghdr) + sizeof(cn_msg));

Head head_of(const Outgoing& message) noexcept {
  Head head;
  const auto length = static_cast<std::uint16_t>(message.payload.size());
  head.netlink.nlmsg_len = static_cast<__u32>(sizeof(Head) + length);
  head.netlink.nlmsg_type = NLMSG_DONE;
  head.netlink.nlmsg_seq = message.numbers.seq;
  head.id = {.idx = message.id.idx, .val = message.id.val};
  head.seq = message.numbers.seq;
  head.ack = message.numbers.ack;
  head.len = length;
  head.flags = message.flags;
  return head;
}

Error cannot_send(int code, const Outgoing& first) {
  Error error = failure(code, "sendmmsg");
  if (code == -ECONNREFUSED) {
    error.detail(
        "there is no connector here: it lives in the first network namespace only. Run outside the container's "
        "network, or adopt a socket opened there");
  } else {
    error.detail("to %u.%u, %zu bytes", first.id.idx, first.id.val, first.payload.size());
  }
  return error;
}

/// Sends at most 128 messages with one call; their heads are on the stack.
int send_some(int fd, std::span<const Outgoing> messages) {
  constexpr std::size_t most = 128;
  std::array<Head, most> heads;
  std::array<iovec, 2 * most> parts;  // NOLINT(cppcoreguidelines-pro-type-member-init): filled as far as used
  std::array<mmsghdr, most> calls;    // NOLINT(cppcoreguidelines-pro-type-member-init)
  sockaddr_nl kernel{};
  kernel.nl_family = AF_NETLINK;
  const std::size_t count = std::min(messages.size(), most);
  for (std::size_t i = 0; i < count; ++i) {
    heads[i] = head_of(messages[i]);
    parts[2 * i] = {.iov_base = &heads[i], .iov_len = sizeof(Head)};
    parts[2 * i + 1] = {.iov_base = const_cast<std::byte*>(messages[i].payload.data()),
                        .iov_len = messages[i].payload.size()};
    calls[i] = {};
    calls[i].msg_hdr.msg_name = &kernel;
    calls[i].msg_hdr.msg_namelen = sizeof kernel;
    calls[i].msg_hdr.msg_iov = &parts[2 * i];
    calls[i].msg_hdr.msg_iovlen = 2;
  }
  return sys::send_many(fd, std::span(calls).first(count));
}

}  // namespace

Result<std::size_t> send_messages(int fd, std::span<const Outgoing> messages) {
  for (const Outgoing& message : messages) {
    if (message.payload.size() > max_payload) {
      return std::unexpected(failure(EMSGSIZE, "send")
                                 .detail("%zu bytes to %u.%u: a message carries at most %zu", message.payload.size(),
                                         message.id.idx, message.id.val, max_payload));
    }
  }
  std::size_t sent = 0;
  while (sent < messages.size()) {
    const auto rest = messages.subspan(sent);
    const int result = send_some(fd, rest);
    if (result < 0 && sent == 0) return std::unexpected(cannot_send(result, rest.front()));
    if (result <= 0) break;
    sent += static_cast<std::size_t>(result);
  }
  return sent;
}

}  // namespace dmaflow::connector
