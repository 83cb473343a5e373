// Events as they lie in a datagram: misaligned, so every field is copied out.
#include <dmaflow/process_events.hpp>

#include "uapi/cn_proc.hpp"

#include <cstddef>
#include <cstring>

namespace dmaflow::connector {
namespace {

using Bytes = std::span<const std::byte>;

constexpr std::size_t data = offsetof(proc_event, event_data);

/// The n-th 32-bit word of the event's own part.
template <typename T = std::int32_t>
T word(Bytes payload, std::size_t n) noexcept {
  T value{};
  static_assert(sizeof value == 4);
  std::memcpy(&value, payload.data() + data + 4 * n, sizeof value);
  return value;
}

Task task(Bytes payload, std::size_t n) noexcept { return {.pid = word(payload, n), .tgid = word(payload, n + 1)}; }

NameChange name_change(Bytes payload) noexcept {
  NameChange change{.task = task(payload, 0)};
  std::memcpy(change.comm.data(), payload.data() + data + 8, change.comm.size());
  change.comm.back() = '\0';
  return change;
}

Exit exit_of(Bytes payload) noexcept {
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

std::optional<ProcessEvent> PayloadTraits<ProcessEvent>::parse(Bytes payload) noexcept {
  if (payload.size() < data + 24) return std::nullopt;  // the largest event but for padding
  ProcessEvent event;
  event.cpu = *read_at<std::uint32_t>(payload, offsetof(proc_event, cpu));
  event.time = std::chrono::nanoseconds(*read_at<std::int64_t>(payload, offsetof(proc_event, timestamp_ns)));
  const auto what = *read_at<std::uint32_t>(payload);
  switch (what) {
    case proc_event::PROC_EVENT_FORK:
      event.what = Fork{.parent = task(payload, 0), .child = task(payload, 2)};
      break;
    case proc_event::PROC_EVENT_EXEC:
      event.what = Exec{task(payload, 0)};
      break;
    case proc_event::PROC_EVENT_UID:
      event.what = UidChange{task(payload, 0), word<uid_t>(payload, 2), word<uid_t>(payload, 3)};
      break;
    case proc_event::PROC_EVENT_GID:
      event.what = GidChange{task(payload, 0), word<gid_t>(payload, 2), word<gid_t>(payload, 3)};
      break;
    case proc_event::PROC_EVENT_SID:
      event.what = SessionStart{task(payload, 0)};
      break;
    case proc_event::PROC_EVENT_PTRACE:
      event.what = Ptrace{.task = task(payload, 0), .tracer = task(payload, 2)};
      break;
    case proc_event::PROC_EVENT_COMM:
      event.what = name_change(payload);
      break;
    case proc_event::PROC_EVENT_COREDUMP:
      event.what = CoreDump{.task = task(payload, 0), .parent = task(payload, 2)};
      break;
    case proc_event::PROC_EVENT_EXIT:
      event.what = exit_of(payload);
      break;
    default:
      event.what = UnknownEvent{what};
  }
  return event;
}

}  // namespace dmaflow::connector
