// The bytes of an event made a ProcessEvent.
#pragma once

#include <dmaflow/process_events.hpp>

#include <cstddef>
#include <cstdint>

namespace dmaflow::connector {

/// What the largest event needs: all but the padding of proc_event (40 bytes).
inline constexpr std::size_t event_bytes = 40;

/// @p payload: event_bytes of them, however aligned. Says which event it is (PROC_EVENT_*).
std::uint32_t decode(const std::byte* payload, ProcessEvent& event) noexcept;

}  // namespace dmaflow::connector
