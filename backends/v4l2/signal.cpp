#include "signal.hpp"

#include "interval.hpp"
#include "log.hpp"
#include "ports.hpp"

namespace dmaflow::v4l2 {
namespace {

/// If neither timings nor the input's status are available, a signal is assumed.
bool has_signal(const Device& device) noexcept {
  const auto timings = detect_timings(device);
  if (timings) return true;
  if (is_no_signal(timings.error())) return false;
  return !has_problem(device, current_port(device).value_or(0));
}

/// True if the received timings are those that were set; rates are compared as precisely as a receiver measures them.
bool is_as_set(const Device& device) noexcept {
  const auto detected = detect_timings(device);
  if (!detected) return !is_no_signal(detected.error());
  const auto set = current_timings(device);
  if (!set) return true;
  const Timings received = describe(detected->bt);
  const Timings wanted = describe(set->bt);
  return received.size == wanted.size && received.interlaced == wanted.interlaced &&
         same_rate(received.interval, wanted.interval);
}

}  // namespace

bool Signal::follow(const Device& device) noexcept {
  const std::uint32_t input = current_port(device).value_or(0);
  if (input_ == input) return true;
  v4l2_event_subscription subscription{};
  subscription.type = V4L2_EVENT_SOURCE_CHANGE;
  if (input_) {
    subscription.id = *input_;
    (void)device.try_call(DMAFLOW_V4L2_OP(VIDIOC_UNSUBSCRIBE_EVENT), &subscription);  // this also discards its events
    input_.reset();
  }
  subscription.id = input;
  if (device.try_call(DMAFLOW_V4L2_OP(VIDIOC_SUBSCRIBE_EVENT), &subscription) < 0) return false;
  input_ = input;
  return true;
}

void Signal::note(const v4l2_event& event) noexcept {
  if (event.id == input_) state_ = State::changed;
}

void Signal::settle(const Device& device) noexcept {
  if (!is_steady() && is_as_set(device)) state_ = State::steady;
}

bool Signal::take_changed(const Device& device) noexcept {
  if (state_ != State::changed) return false;
  if (!has_signal(device)) {
    detail::log(LogLevel::warning, "%s: no signal; waiting for it", device.name().c_str());
    state_ = State::absent;
    return false;
  }
  state_ = State::steady;
  return true;
}

}  // namespace dmaflow::v4l2
