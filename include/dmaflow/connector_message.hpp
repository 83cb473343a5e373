// Messages of the Kernel Connector, with a name (cb_id), two numbers (seq, ack) and a payload.
//
// On the wire (include/uapi/linux/connector.h) a datagram is an nlmsghdr of 16 bytes, a cn_msg of 20 bytes and the
// payload, in the machine's own byte order. The kernel may pack several cn_msg into one nlmsghdr; from a program it
// reads only the first. Nothing in a datagram is aligned, and nothing in it is trusted: every length is checked against
// the received bytes.
#pragma once

#include <dmaflow/cpp23.hpp>

#include <compare>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>

namespace dmaflow::connector {

/// The receiver or sender of a message: cb_id of linux/connector.h. `idx` is also the number of the multicast group.
struct CbId {
  std::uint32_t idx = 0;
  std::uint32_t val = 0;
  friend constexpr auto operator<=>(const CbId&, const CbId&) = default;
};

/// Names that the kernel has assigned. /proc/net/connector lists those active on a machine.
namespace ids {
inline constexpr CbId process{1, 1};  ///< process events (CN_IDX_PROC)
inline constexpr CbId cifs{2, 1};     ///< cifs.upcall
inline constexpr CbId w1{3, 1};       ///< 1-wire
inline constexpr CbId v86d{4, 1};     ///< uvesafb asks v86d
inline constexpr CbId dm_log{7, 1};   ///< device-mapper's log in user space
inline constexpr CbId drbd{8, 1};     ///< DRBD's helper
inline constexpr CbId hyperv_kvp{9, 1};
inline constexpr CbId hyperv_vss{10, 1};
}  // namespace ids

/// The most a message may carry to the kernel, in bytes: CONNECTOR_MAX_MSG_SIZE without the cn_msg.
inline constexpr std::size_t max_payload = 16364;

/// The origin of a message, as reported by the kernel; a sender cannot forge it.
struct Origin {
  std::uint32_t port = 0;   ///< 0: the kernel. Else the netlink port of a program, often its pid
  std::uint32_t group = 0;  ///< multicast group 1 to 32 that it was sent to; 0: to this socket alone
  [[nodiscard]] bool is_kernel() const noexcept { return port == 0; }
};

/// One message. A view: the payload lies in the buffer it was received into, and is gone when the callback returns.
/// Copying it copies the view. The payload is not aligned: use read_at(), or copy it out.
struct Message {
  CbId id{};
  std::uint32_t seq = 0;
  std::uint32_t ack = 0;
  std::uint16_t flags = 0;
  std::span<const std::byte> payload{};
  Origin origin{};
};

/// Reads a value from a payload with any alignment. Empty if the value is not completely inside the payload.
template <typename T>
  requires std::is_trivially_copyable_v<T>
[[nodiscard]] std::optional<T> read_at(std::span<const std::byte> bytes, std::size_t offset = 0) noexcept {
  if (offset > bytes.size() || bytes.size() - offset < sizeof(T)) return std::nullopt;
  T value{};
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

/// How a type is read from a message: specialise it with
///   static constexpr CbId id;                                            whose messages carry it
///   static std::optional<T> parse(std::span<const std::byte> payload);   nothing where the payload is not one
template <typename T>
struct PayloadTraits;

template <typename T>
concept Payload = requires(std::span<const std::byte> payload) {
  { PayloadTraits<T>::id } -> std::convertible_to<CbId>;
  { PayloadTraits<T>::parse(payload) } -> std::same_as<std::optional<T>>;
};

/// Walks through the messages of one datagram. A plain value; not synchronised. No input makes it read outside the
/// bytes it was given, and each step ends after reading at least 20 of them.
class MessageReader {
 public:
  /// How the walk ended.
  enum class End : std::uint8_t {
    clean,      ///< everything was read
    truncated,  ///< the datagram was longer than the bytes: the complete messages were returned, the rest is lost
    malformed,  ///< a length points outside, or is too small for a header; the messages before it were returned
  };

  /// @p bytes: what was received. @p is_cut: MSG_TRUNC was set, there was more.
  MessageReader(std::span<const std::byte> bytes, Origin origin, bool is_cut = false) noexcept
      : rest_(bytes), origin_(origin), is_cut_(is_cut) {}

  /// The next message; empty at the end, and end() then says how the walk ended.
  [[nodiscard]] std::optional<Message> next() noexcept;
  [[nodiscard]] End end() const noexcept { return end_; }

 private:
  [[nodiscard]] bool enter_next() noexcept;
  void stop(bool is_short) noexcept;

  std::span<const std::byte> rest_;       // of the datagram
  std::span<const std::byte> netlink_{};  // of the nlmsghdr we are in
  Origin origin_;
  bool is_cut_;
  End end_ = End::clean;
};

}  // namespace dmaflow::connector
