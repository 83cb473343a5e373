// Signal: what the current input receives, as the kernel's source change events tell (V4L2_EVENT_SOURCE_CHANGE).
//
// An event says that something changed, not what. So each is followed by a look: only where a signal is there can a
// stream be set up anew; where none is, the next event is awaited.
#pragma once

#include "device.hpp"

#include <cstdint>
#include <optional>

namespace dmaflow::v4l2 {

class Signal {
 public:
  /// Subscribes to changes of the current input, and no longer to those of another. False where the device sends none.
  bool follow(const Device& device) noexcept;
  /// Notes a source change event; one of another input says nothing.
  void note(const v4l2_event& event) noexcept;
  /// A look found no signal: what comes next is a change.
  void miss() noexcept { state_ = State::absent; }
  /// The device was set up. Changes noted until then count only where the signal is not what was set.
  void settle(const Device& device) noexcept;
  /// True once after the signal changed and is there.
  bool take_changed(const Device& device) noexcept;

  /// As it was when the device was set up, as far as is known.
  [[nodiscard]] bool is_steady() const noexcept { return state_ == State::steady; }
  [[nodiscard]] bool is_absent() const noexcept { return state_ == State::absent; }

 private:
  enum class State : std::uint8_t { steady, changed, absent };
  State state_ = State::steady;
  std::optional<std::uint32_t> input_;  // subscribed to; the events' id
};

}  // namespace dmaflow::v4l2
