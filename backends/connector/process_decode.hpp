// Decodes the bytes of an event into a ProcessEvent.
#pragma once

#include <dmaflow/process_events.hpp>

#include <cstddef>
#include <cstdint>

namespace dmaflow::connector {

/// The size of the largest event: proc_event without its padding (40 bytes).
inline constexpr std::size_t event_bytes = 40;

/// @p payload: event_bytes of them, with any alignment. Returns which event it is (PROC_EVENT_*).
std::uint32_t decode(const std::byte* payload, ProcessEvent& event) noexcept;

}  // namespace dmaflow::connector
