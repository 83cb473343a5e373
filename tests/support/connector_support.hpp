// A fake connector behind the system-call seam, controlled by the test: for unit tests on any machine. Its receive
// queue follows the kernel's rules for overflow (net/netlink/af_netlink.c). tests/integration uses the kernel's
// connector.
#pragma once

#include "support.hpp"

#include <dmaflow/connector.hpp>

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <string_view>
#include <vector>

#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

namespace dmaflow::test {

using Bytes = std::vector<std::byte>;

/// Not inlined: otherwise GCC 12 at -O3 warns of an overflow in vector's own code.
[[gnu::noinline]] inline void append_bytes(Bytes& bytes, const void* data, std::size_t size) {
  const std::size_t before = bytes.size();
  bytes.resize(before + size);
  std::memcpy(bytes.data() + before, data, size);
}

template <typename T>
void append(Bytes& bytes, const T& value) {
  append_bytes(bytes, &value, sizeof(T));
}

inline Bytes bytes_of(std::string_view text) {
  Bytes bytes(text.size());
  if (!text.empty()) std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

inline std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// A cn_msg with its payload.
inline Bytes cn(connector::CbId id, std::uint32_t seq, std::uint32_t ack, const Bytes& payload,
                std::uint16_t flags = 0) {
  Bytes bytes;
  for (const std::uint32_t value : {id.idx, id.val, seq, ack}) append(bytes, value);
  append(bytes, static_cast<std::uint16_t>(payload.size()));
  append(bytes, flags);
  bytes.insert(bytes.end(), payload.begin(), payload.end());
  return bytes;
}

/// An nlmsghdr around several cn_msg, padded as the kernel pads.
inline Bytes netlink(const std::vector<Bytes>& messages) {
  Bytes bytes;
  std::uint32_t length = 16;
  for (const Bytes& message : messages) length += static_cast<std::uint32_t>(message.size());
  append(bytes,
         nlmsghdr{.nlmsg_len = length, .nlmsg_type = NLMSG_DONE, .nlmsg_flags = 0, .nlmsg_seq = 0, .nlmsg_pid = 0});
  for (const Bytes& message : messages) bytes.insert(bytes.end(), message.begin(), message.end());
  bytes.resize((bytes.size() + 3) / 4 * 4);
  return bytes;
}

class PretendConnector : public sys::Hook {
 public:
  PretendConnector() { sys::set_hook(this); }
  ~PretendConnector() override { sys::set_hook(nullptr); }

  /// A descriptor that passes for a connector socket. It is readable as long as something is queued.
  Fd socket() {
    Fd fd = Fd::adopt(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    readable_ = Fd::dup_of(fd.get()).value();
    return fd;
  }

  /// Queues a datagram as the kernel does, or drops it if there is no room.
  void arrive(Bytes bytes, std::uint32_t port = 0, std::uint32_t groups = 0) {
    if (is_congested_ || queued_ > receive_buffer) {
      if (!is_congested_) {
        is_congested_ = true;
        error_ = ENOBUFS;
      }
      ++drops;
      return;
    }
    queued_ += truesize(bytes);
    queue_.push_back({std::move(bytes), port, groups});
    ::eventfd_write(readable_.get(), 1);
  }

  int before(const sys::Call& call) noexcept override {
    const std::string_view name = call.name;
    if (name == "recvmmsg") return receive(batch_of(call));
    if (name == "sendmmsg") return send(batch_of(call));
    if (name == "getsockopt") return option(call);
    if (name == "setsockopt") return pretend;
    return proceed;
  }

  struct SentMessage {
    connector::CbId id{};
    std::uint32_t seq = 0;
    std::uint32_t ack = 0;
    std::uint16_t flags = 0;
    Bytes payload{};
  };
  std::vector<SentMessage> sent;
  std::size_t send_calls = 0;
  std::size_t receive_calls = 0;
  int send_error = 0;
  std::size_t take_at_most = 1000;                  ///< the most messages that one sendmmsg accepts
  std::function<void(const SentMessage&)> on_send;  ///< answers as the kernel would
  std::function<void(std::size_t)> before_receive;  ///< called after each message received, e.g. to send more
  std::uint32_t receive_buffer = 212'992;
  std::uint32_t drops = 0;

 private:
  struct Queued {
    Bytes bytes;
    std::uint32_t port;
    std::uint32_t groups;
  };

  static std::uint32_t truesize(const Bytes& bytes) {
    return 768 + static_cast<std::uint32_t>((bytes.size() + 63) / 64 * 64);
  }
  static sys::Batch& batch_of(const sys::Call& call) {
    return *static_cast<sys::Batch*>(const_cast<void*>(call.argument));
  }

  int receive(sys::Batch& batch) {
    ++receive_calls;
    if (error_ != 0) return std::exchange(error_, 0);
    unsigned count = 0;
    while (count < batch.count && !queue_.empty() && error_ == 0) {
      const Queued front = std::move(queue_.front());
      queue_.pop_front();
      queued_ -= truesize(front.bytes);
      if (queue_.empty()) is_congested_ = false;
      mmsghdr& header = batch.messages[count++];
      iovec& part = *header.msg_hdr.msg_iov;
      const std::size_t length = std::min(part.iov_len, front.bytes.size());
      if (length > 0) std::memcpy(part.iov_base, front.bytes.data(), length);
      header.msg_len = static_cast<unsigned>(length);
      header.msg_hdr.msg_flags = length < front.bytes.size() ? MSG_TRUNC : 0;
      sockaddr_nl address{};
      address.nl_family = AF_NETLINK;
      address.nl_pid = front.port;
      address.nl_groups = front.groups;
      std::memcpy(header.msg_hdr.msg_name, &address, sizeof address);
      if (before_receive) before_receive(count);
    }
    if (queue_.empty()) {
      eventfd_t value = 0;
      ::eventfd_read(readable_.get(), &value);
    }
    batch.result = static_cast<int>(count);
    return count == 0 ? EAGAIN : pretend;
  }

  int send(sys::Batch& batch) {
    ++send_calls;
    if (send_error != 0) return send_error;
    batch.result = static_cast<int>(std::min<std::size_t>(batch.count, take_at_most));
    for (int i = 0; i < batch.result; ++i) {
      const msghdr& header = batch.messages[i].msg_hdr;
      Bytes bytes;
      for (std::size_t p = 0; p < header.msg_iovlen; ++p) {
        const auto* begin = static_cast<const std::byte*>(header.msg_iov[p].iov_base);
        if (header.msg_iov[p].iov_len > 0) bytes.insert(bytes.end(), begin, begin + header.msg_iov[p].iov_len);
      }
      connector::MessageReader reader(bytes, {});
      const auto message = reader.next();
      if (!message || reader.next()) {
        ADD_FAILURE() << "what was sent is not one message";
        continue;
      }
      sent.push_back({message->id, message->seq, message->ack, message->flags,
                      Bytes(message->payload.begin(), message->payload.end())});
      if (on_send) on_send(SentMessage(sent.back()));
    }
    return pretend;
  }

  int option(const sys::Call& call) const {
    auto* value = const_cast<void*>(call.argument);
    if (call.request == SO_DOMAIN) *static_cast<int*>(value) = AF_NETLINK;
    if (call.request == SO_PROTOCOL) *static_cast<int*>(value) = NETLINK_CONNECTOR;
    if (call.request == SO_MEMINFO) {
      auto* values = static_cast<std::uint32_t*>(value);
      values[SK_MEMINFO_RMEM_ALLOC] = queued_;
      values[SK_MEMINFO_RCVBUF] = receive_buffer;
      values[SK_MEMINFO_DROPS] = drops;
    }
    return pretend;
  }

  std::deque<Queued> queue_;
  std::uint32_t queued_ = 0;
  bool is_congested_ = false;
  int error_ = 0;
  Fd readable_;
};

}  // namespace dmaflow::test
