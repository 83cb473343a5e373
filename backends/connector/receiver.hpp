// Reads many datagrams with one system call, and determines exactly what was lost, and where.
//
// When the receive buffer is full, the kernel drops new messages, reports ENOBUFS once, before the messages that are
// already queued, and queues nothing more until the queue has been read empty (net/netlink/af_netlink.c:
// NETLINK_S_CONGESTED). So the hole is after the messages that are queued at the time of the report. Their number
// follows from SO_MEMINFO, exactly for messages of one size.
#pragma once

#include "socket.hpp"

#include <dmaflow/connector_message.hpp>
#include <dmaflow/deadline.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <linux/netlink.h>
#include <sys/socket.h>

namespace dmaflow::connector {

class Receiver {
 public:
  /// Space for @p slots datagrams of @p slot_bytes; longer ones are cut. @p is_uniform: nearly all datagrams have one
  /// size, which is then measured once. Allocates only here.
  Receiver(std::size_t slots, std::size_t slot_bytes, bool is_uniform = false);

  /// Messages that the socket has lost so far are not reported.
  [[nodiscard]] Result<void> begin(int fd);

  enum class Got : std::uint8_t { nothing, datagrams, loss };
  struct Step {
    Got got = Got::nothing;
    std::size_t count = 0;   ///< of datagrams
    std::uint32_t lost = 0;  ///< messages; may be 0 if an earlier report already counted them
    bool is_last = false;    ///< the queue is empty after this, and poll() may follow without another step
  };
  /// The next datagrams or the next loss. Never blocks. One system call, four when a loss begins.
  [[nodiscard]] Result<Step> step(int fd) noexcept;

  struct Datagram {
    std::span<const std::byte> bytes;
    Origin origin;
    bool is_cut;
  };
  /// A datagram of the last step. @p index: below its count.
  [[nodiscard]] Datagram datagram(std::size_t index) const noexcept;

  /// The bytes of a datagram that came uncut from the kernel and has @p size bytes; nullptr for any other.
  [[nodiscard]] const std::byte* from_kernel(std::size_t index, std::size_t size) const noexcept {
    const bool is_so =
        headers_[index].msg_len == size && addresses_[index].nl_pid == 0 && headers_[index].msg_hdr.msg_flags == 0;
    return is_so ? bytes_.get() + index * slot_bytes_ : nullptr;
  }

  /// Receiving system calls made so far.
  [[nodiscard]] std::uint64_t calls() const noexcept { return calls_; }

 private:
  int receive(int fd, std::size_t count) noexcept;
  Result<Step> report_loss(int fd) noexcept;
  Result<Step> begin_loss(int fd) noexcept;
  /// The sender that drops a message counts it a moment after it found the queue full (netlink_overrun()). That may be
  /// after our check, and much later if it was preempted in between. So empty reads check again, for a second, and once
  /// after it.
  Result<Step> look_again(int fd) noexcept;
  [[nodiscard]] bool may_be_counted_late() const noexcept { return look_until_ != Deadline::Clock::time_point{}; }
  static constexpr auto late = std::chrono::seconds(1);

  std::unique_ptr<std::byte[]> bytes_;
  std::size_t slot_bytes_;
  std::vector<iovec> parts_;
  std::vector<sockaddr_nl> addresses_;
  std::vector<mmsghdr> headers_;
  std::uint32_t drops_seen_ = 0;
  bool is_uniform_;
  std::uint32_t size_of_each_ = 0;  // in the kernel's accounting; 0: not known
  bool is_hole_ahead_ = false;
  std::size_t before_hole_ = 0;  // messages
  Deadline::Clock::time_point look_until_{};
  std::uint64_t calls_ = 0;
};

}  // namespace dmaflow::connector
