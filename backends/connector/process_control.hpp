// Telling the kernel to send process events, and what its silence means.
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

/// The errno in the kernel's answer with this ack; nothing where the datagram is something else.
[[nodiscard]] std::optional<int> answer_in(const Receiver::Datagram& datagram, std::uint32_t ack) noexcept;

/// The kernel said no.
[[nodiscard]] Error refused(int code);
/// The kernel said nothing: which of namespace and configuration it was, as far as can be seen.
[[nodiscard]] Error why_no_answer();

/// Keeps the events of the mask and the control's answers. Valid until the next call.
class EventFilter {
 public:
  explicit EventFilter(std::uint32_t mask) noexcept;
  operator std::span<const sock_filter>() const noexcept { return program_; }  // NOLINT(google-explicit-constructor)

 private:
  std::array<sock_filter, 5> program_;
};
[[nodiscard]] inline EventFilter event_filter(std::uint32_t mask) noexcept { return EventFilter(mask); }

}  // namespace dmaflow::connector
