// Asks the kernel to send process events, and explains why it does not answer.
#pragma once

#include "receiver.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include <linux/filter.h>

namespace dmaflow::connector {

/// The two forms of LISTEN.
enum class Listen : std::uint8_t {
  with_mask,  ///< 8 bytes: the operation and a mask. Kernel 6.6; ignored by earlier ones
  bare,       ///< 4 bytes
};

/// The payload of a control message.
struct Control {
  std::array<std::byte, 8> bytes{};
  std::size_t size = 0;
};
[[nodiscard]] Control control_of(Listen form, std::uint32_t mask) noexcept;
[[nodiscard]] Control ignore_control() noexcept;
[[nodiscard]] Result<void> send_control(int fd, const Control& control, std::uint32_t ack);
[[nodiscard]] std::uint32_t random_ack() noexcept;

/// The errno in the kernel's answer with this ack; nullopt if the datagram is something else.
[[nodiscard]] std::optional<int> answer_in(const Receiver::Datagram& datagram, std::uint32_t ack) noexcept;

/// The error if the kernel refused.
[[nodiscard]] Error refused(int code);
/// The error if the kernel did not answer. Says whether the namespace or the configuration is the cause, as far as can
/// be determined.
[[nodiscard]] Error why_no_answer();

/// Passes the events of the mask and the answers to control messages. Valid until the next call.
class EventFilter {
 public:
  explicit EventFilter(std::uint32_t mask) noexcept;
  operator std::span<const sock_filter>() const noexcept { return program_; }  // NOLINT(google-explicit-constructor)

 private:
  std::array<sock_filter, 5> program_;
};
[[nodiscard]] inline EventFilter event_filter(std::uint32_t mask) noexcept { return EventFilter(mask); }

}  // namespace dmaflow::connector
