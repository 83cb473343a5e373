// Signal: tracks the current input's signal by the kernel's source change events (V4L2_EVENT_SOURCE_CHANGE).
//
// An event says that something changed, not what. So the input is checked after each event: if there is a signal, a
// stream can be set up again; if there is none, the next event is awaited.
#pragma once

#include "device.hpp"

#include <cstdint>
#include <optional>

namespace dmaflow::v4l2 {

class Signal {
 public:
  /// Subscribes to changes of the current input, and unsubscribes from those of another. False if the device sends
  /// none.
  bool follow(const Device& device) noexcept;
  /// Records a source change event; events of other inputs are ignored.
  void note(const v4l2_event& event) noexcept;
  /// The input was found to have no signal: the next event is a change.
  void miss() noexcept { state_ = State::absent; }
  /// The device was set up. Changes recorded until now count only if the signal differs from what was set.
  void settle(const Device& device) noexcept;
  /// True once after the signal has changed, if there is one.
  bool take_changed(const Device& device) noexcept;

  /// True if the signal, as far as is known, is as it was when the device was set up.
  [[nodiscard]] bool is_steady() const noexcept { return state_ == State::steady; }
  [[nodiscard]] bool is_absent() const noexcept { return state_ == State::absent; }

 private:
  enum class State : std::uint8_t { steady, changed, absent };
  State state_ = State::steady;
  std::optional<std::uint32_t> input_;  // subscribed to; the ID of its events
};

}  // namespace dmaflow::v4l2
