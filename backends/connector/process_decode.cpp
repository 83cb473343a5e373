// Decodes events in a datagram, where they are misaligned, so every field is copied out.
#include "process_decode.hpp"

#include "uapi/cn_proc.hpp"

#include <cstddef>
#include <cstring>

namespace dmaflow::connector {
namespace {

constexpr std::size_t data = offsetof(proc_event, event_data);
/// A separate enumeration since 6.6's headers, one within proc_event before.
using What = decltype(proc_event::what);

/// The n-th 32-bit word of the event's own part.
template <typename T = std::int32_t>
T word(const std::byte* payload, std::size_t n) noexcept {
  T value{};
  static_assert(sizeof value == 4);
  std::memcpy(&value, payload + data + 4 * n, sizeof value);
  return value;
}

Task task(const std::byte* payload, std::size_t n) noexcept {
  return {.pid = word(payload, n), .tgid = word(payload, n + 1)};
}

NameChange name_change(const std::byte* payload) noexcept {
  NameChange change{.task = task(payload, 0)};
  std::memcpy(change.comm.data(), payload + data + 8, change.comm.size());
  change.comm.back() = '\0';
  return change;
}

Exit exit_of(const std::byte* payload) noexcept {
  return {.task = task(payload, 0),
          .parent = task(payload, 4),
          .status = word<std::uint32_t>(payload, 2),
          .parent_signal = word(payload, 3)};
}

}  // namespace

std::string_view NameChange::name() const noexcept { return comm.data(); }

std::optional<int> Exit::code() const noexcept {
  if (signal() != 0) return std::nullopt;
  return static_cast<int>((status >> 8U) & 0xffU);
}

std::uint32_t decode(const std::byte* payload, ProcessEvent& event) noexcept {
  std::int64_t time = 0;
  std::uint32_t what = 0;
  std::memcpy(&what, payload, sizeof what);
  std::memcpy(&event.cpu, payload + offsetof(proc_event, cpu), sizeof event.cpu);
  std::memcpy(&time, payload + offsetof(proc_event, timestamp_ns), sizeof time);
  event.time = std::chrono::nanoseconds(time);
  switch (what) {
    case What::PROC_EVENT_FORK:
      event.what.emplace<Fork>(Fork{.parent = task(payload, 0), .child = task(payload, 2)});
      break;
    case What::PROC_EVENT_EXEC:
      event.what.emplace<Exec>(Exec{task(payload, 0)});
      break;
    case What::PROC_EVENT_UID:
      event.what.emplace<UidChange>(UidChange{task(payload, 0), word<uid_t>(payload, 2), word<uid_t>(payload, 3)});
      break;
    case What::PROC_EVENT_GID:
      event.what.emplace<GidChange>(GidChange{task(payload, 0), word<gid_t>(payload, 2), word<gid_t>(payload, 3)});
      break;
    case What::PROC_EVENT_SID:
      event.what.emplace<SessionStart>(SessionStart{task(payload, 0)});
      break;
    case What::PROC_EVENT_PTRACE:
      event.what.emplace<Ptrace>(Ptrace{.task = task(payload, 0), .tracer = task(payload, 2)});
      break;
    case What::PROC_EVENT_COMM:
      event.what.emplace<NameChange>(name_change(payload));
      break;
    case What::PROC_EVENT_COREDUMP:
      event.what.emplace<CoreDump>(CoreDump{.task = task(payload, 0), .parent = task(payload, 2)});
      break;
    case What::PROC_EVENT_EXIT:
      event.what.emplace<Exit>(exit_of(payload));
      break;
    default:
      event.what.emplace<UnknownEvent>(UnknownEvent{what});
  }
  return what;
}

std::optional<ProcessEvent> PayloadTraits<ProcessEvent>::parse(std::span<const std::byte> payload) noexcept {
  std::optional<ProcessEvent> event;
  if (payload.size() >= event_bytes) decode(payload.data(), event.emplace());
  return event;
}

}  // namespace dmaflow::connector
